"""The generator without a discriminator (Wav2Lip, section 3.4).

Reproduces the loss and optimizer of the originals' first script, with the
paper's batch of 80 windows and weight of 0.03. Differs on purpose: bf16,
warm-up, clipping, an averaged generator, reference windows that share no
frame with the target, and a sync weight that follows the measured
validation loss instead of jumping at 0.75.

Cost: 124 GFLOP a window to learn; 18 steps or 7,270 faces a second on one H200
(`python -m lipsync_jax.benchmark train`), some four hours; the authors report
less than a day on one GPU. Numbers reached: none yet on LRS2.

  python -m lipsync_jax.main --config=configs/wav2lip.py --workdir=DIR \
    --config.data.folder=SHARDS --config.expert=EXPERT/syncnet.safetensors
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """All fields there are; the other configs change a few."""
  config = ml_collections.ConfigDict()
  config.stage = 'generator'  # syncnet | generator | hq | all three: all
  config.seed = 0  # of first weights and of the order of data
  config.steps = 250_000  # batches; gradients of `every` make one update
  config.batch = 80  # windows over all devices
  config.expert = ''  # weights of the expert, for generator and hq
  config.init = ''  # weights to begin with; a checkpoint goes before them
  config.ears = ''  # an expert with whose audio tower the generator hears
  config.ema_decay = 0.999  # of the averaged network, a batch; 0: none
  config.expert_batch_stats = False  # as the originals, spec 4.5
  config.across = False  # all windows of a batch compete, not those of a clip
  config.opening_weight = 0.0  # of telling the lip opening; contrastive only
  config.adversarial_weight = 0.07  # of the loss; hq only
  config.calm = 0.0  # what the discriminator's slope costs it (R1); hq only
  config.lips_weight = 0.0  # of the pictures' loss, for the lips alone
  config.motion_weight = 0.0  # of how the lips move, added to all this
  config.net = config_dict.create(
    size=96,  # pixels: 96, 192, 256, 384
    width=1.0,  # of all layers, times the published channels
    dtype='bfloat16',  # of activations; all else is float32
  )
  config.optimizer = optimizer()
  config.sync = config_dict.create(
    weight=0.03,  # of the loss, at most
    # Measured sync loss above which the weight is 0, below which it is
    # whole. Equal: the originals' rule, never lowered (0.75 there, with
    # expert_batch_stats).
    high=3.0,
    low=1.5,
    ramp_steps=1000,  # batches from 0 to the whole weight; 0: at once
    until_real=False,  # no weight while the loss is below that of real lips
  )
  config.data = data()
  config.augmented = True
  config.augment = augment()
  config.mesh = config_dict.create(data=-1, fsdp=1)  # devices; -1: the rest
  config.update(watch())
  return config.lock()


def optimizer() -> ml_collections.ConfigDict:
  """Of every network that is trained."""
  return config_dict.create(
    rate=1e-4,
    b1=0.9,
    b2=0.999,
    clip=1.0,  # greatest global norm of a gradient; 0: none
    every=1,  # batches averaged for one update
    warmup_steps=500,  # updates
    decay_steps=0,  # updates, half a cosine to zero; 0: stays
  )


def data() -> ml_collections.ConfigDict:
  """Which windows of which clips."""
  return config_dict.create(
    folder='',  # of TFRecord shards (data_prep/build_tfrecords.py)
    train='train',  # split
    val='val',  # split
    part=0,  # train on the speakers of this part …
    parts=1,  # … of so many, chosen by the hash of their names
    resident=False,  # keep the split in the device's memory
    threads=8,  # that decode
    kind='contrastive',  # syncnet: contrastive | syncnet (the published pairs)
    order='clip',  # an epoch is every clip | window | speaker once
    apart=0,  # frames to the wrong or reference window, at least; 0: usual
    most=0,  # frames, at most; 0: any
    elsewhere=0.0,  # share of wrong or reference windows from other clips
    group=6,  # windows of a clip that compete (contrastive)
    edges=False,  # also windows whose sound is padded
    frames=5,  # of a window that teach a generator; 2: two moments of a clip
    # whose mouths differ most, without an expert
  )


def augment() -> ml_collections.ConfigDict:
  """How examples are changed, as long as `augmented` is True."""
  return config_dict.create(
    flip=0.5,  # probability
    brightness=0.08,  # of [0, 1], at most
    contrast=0.15,  # relative
    saturation=0.2,  # relative
    hue=0.02,  # turns
    shift=0.02,  # of the crop
    scale=0.04,  # of the crop
    roll=3.0,  # degrees
    mask_columns=0,  # of the mel, at most
    mask_bins=0,  # of the mel, at most
    gain=0.0,  # dB, at most
    warp=0.0,  # of the voice's spectrum, relative
    noise=0.0,  # probability
    quiet=40.0,  # dB
    loud=15.0,  # dB
  )


def watch() -> ml_collections.ConfigDict:
  """What is written of a run and when; nothing here changes what it learns,
  but that validation sets the sync weight."""
  return config_dict.create(
    quick_compile=False,  # XLA compiles twice as fast, steps are slower
    log_steps=100,
    validate_steps=3000,
    validate_rounds=1,  # passes over the split
    stuck_steps=5000,  # at chance so long: the expert says why
    save_steps=3000,
    keep=3,  # newest checkpoints that stay
    keep_best=True,
    export='best',  # validated | last: pictures lose by L1 what they gain in
    # sharpness, so that HQ's best is its first
    strips=2,  # rows of the first validation batch that are drawn
    video=True,  # a validation clip with its sound, generator and hq
  )
