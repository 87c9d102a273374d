"""Every config field with its default. The other configs change a few.

The values are those of the generator without a discriminator
(`configs/wav2lip.py`). Fields of `run` and `mesh`, the paths, and the worker
count may change when a run resumes; every other field shapes what is learned.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """All fields."""
  config = ml_collections.ConfigDict()
  # syncnet | generator | hq | all (the three) | articulator | refiner |
  # refiner_hq
  config.stage = 'generator'
  config.seed = 0  # of the first weights and of the order of the data
  config.num_train_steps = 250_000  # batches
  config.batch_size = 80  # windows over all devices
  config.syncnet_weights = ''  # file of the expert SyncNet, generator and hq
  config.init_weights = ''  # first weights; a checkpoint takes precedence
  config.init_audio_encoder = ''  # SyncNet file with the first audio encoder
  config.freeze_audio_encoder = True  # if init_audio_encoder is given
  config.ema_decay = 0.999  # of the averaged network, a batch; 0: none
  config.contrastive_negatives = 'clip'  # clip | batch: windows that compete
  config.model = config_dict.create(
    image_size=96,  # pixels: 96, 192, 256, 384
    width_multiplier=1.0,  # of all layers, times the published channels
    dtype='bfloat16',  # of activations; all else is float32
  )
  config.optimizer = optimizer()
  config.loss = loss()
  config.sync = sync()
  config.data = data()
  config.augment = augment()
  config.articulator = articulator()
  config.refiner = refiner()
  config.validation = config_dict.create(
    every_steps=3000,
    passes=1,  # over the validation split
  )
  config.mesh = config_dict.create(data=-1, fsdp=1)  # devices; -1: the rest
  config.run = run()
  return config.lock()


def optimizer() -> ml_collections.ConfigDict:
  """Adam, for every network that is trained."""
  return config_dict.create(
    learning_rate=1e-4,
    b1=0.9,
    b2=0.999,
    grad_clip_norm=1.0,  # largest global norm of a gradient; 0: no clipping
    accumulate_steps=1,  # batches averaged for one update
    warmup_steps=500,  # updates
    decay_steps=0,  # updates of a half cosine to zero; 0: constant
  )


def loss() -> ml_collections.ConfigDict:
  """Weights of the loss terms."""
  return config_dict.create(
    sync=0.03,  # share of the generator's loss, at most
    adversarial=0.07,  # share of the generator's loss, hq only
    mouth_l1=0.0,  # share of the reconstruction loss on the mouth alone
    temporal=0.0,  # of the temporal difference loss, added
    lip_opening=0.0,  # of the lip-opening regression, added; contrastive only
    r1_gamma=0.0,  # of the discriminator's R1 penalty, hq only
  )


def sync() -> ml_collections.ConfigDict:
  """When the sync loss counts, by the validated sync loss."""
  return config_dict.create(
    # The weight is 0 above `high`, whole below `low`, linear between. Equal
    # values give the originals' rule, never lowered again (0.75 there, with
    # use_batch_statistics).
    high=3.0,
    low=1.5,
    ramp_steps=1000,  # batches from 0 to the whole weight; 0: at once
    stop_below_ground_truth=False,  # 0 while below the loss of real lips
    use_batch_statistics=False,  # in the expert, as the originals (spec 4.5)
  )


def data() -> ml_collections.ConfigDict:
  """Which windows of which clips."""
  return config_dict.create(
    path='',  # folder of TFRecord shards (data_prep/build_tfrecords.py)
    train_split='train',
    validation_split='val',
    speaker_fold=0,  # train on the speakers of this fold ...
    num_speaker_folds=1,  # ... of so many, by the hash of their names
    device_resident=False,  # keep the split in the device's memory
    num_workers=8,  # threads that decode
    kind='contrastive',  # syncnet: contrastive | syncnet (published pairs)
    sampling='clip',  # an epoch is every clip | window | speaker once
    min_offset=0,  # frames to the negative or reference window; 0: default
    max_offset=0,  # frames; 0: no limit
    cross_clip_probability=0.0,  # of negatives or references of other clips
    windows_per_clip=6,  # that compete (contrastive)
    pad_audio=False,  # also windows whose sound is padded with silence
    # Target frames of a generator window: 5, or 2 single frames of a clip
    # whose mouths differ most, without an expert.
    frames_per_window=5,
  )


def augment() -> ml_collections.ConfigDict:
  """How examples are augmented."""
  return config_dict.create(
    enabled=True,
    flip=0.5,  # probability
    brightness=0.08,  # of [0, 1], at most
    contrast=0.15,  # relative, at most
    saturation=0.2,  # relative, at most
    hue=0.02,  # turns, at most
    shift=0.02,  # of the crop, at most
    scale=0.04,  # of the crop, at most
    roll=3.0,  # degrees, at most
    time_mask=0,  # mel columns, at most
    frequency_mask=0,  # mel bins, at most
    gain=0.0,  # dB, at most
    vtlp=0.0,  # relative stretch of the spectrum, at most
    noise=0.0,  # probability of white noise
    max_snr_db=40.0,
    min_snr_db=15.0,
  )


def articulator() -> ml_collections.ConfigDict:
  """The articulator, the network of the mesh renderer."""
  return config_dict.create(
    width=192,  # channels
    dropout=0.15,
    weight_decay=0.02,
    speaker_share=0.5,  # of the windows, whose speaker is drawn evenly
    loss=dict(  # weights, see `training.articulator_steps`
      position=1.0,
      motion=2.0,
      correlation=0.3,
      lip_gap=0.15,
      gap_decay=40.0,
      amplitude=0.05,
      closure=0.1,
    ),
    augment=dict(  # see `data.motion_batches.MotionAugmentation`
      gain=6.0,
      vtlp=0.1,
      tempo=0.1,
      noise=0.5,
      neighbor=0.5,
      silence=0.1,
      time_mask=0,
      frequency_mask=0,
    ),
  )


def refiner() -> ml_collections.ConfigDict:
  """The refiner, the network that repaints warped mouths."""
  return config_dict.create(
    image_size=128,  # pixels of the mouth crop: 64, 128, 192, 256
    width_multiplier=1.0,  # of all layers
    dtype='float32',  # of activations
    weight_decay=0.01,
    photos_only=False,  # train on pairs that stand for photos only
    loss=dict(  # weights, see `refinement.refiner_losses`
      l1=1.0,
      gradient=1.0,
      painted=0.3,
      mask=0.03,
      mouth=4.0,
      hole=4.0,
      adversarial=0.02,  # this and the following: refiner_hq only
      features=0.1,
      r1_gamma=1.0,
    ),
  )


def run() -> ml_collections.ConfigDict:
  """What a run writes. No field changes what is learned."""
  return config_dict.create(
    fast_compile=False,  # XLA compiles twice as fast, steps are slower
    log_every_steps=100,
    save_every_steps=3000,
    chance_report_step=5000,  # explain an expert that is at chance by then
    max_to_keep=3,  # newest checkpoints
    keep_best=True,  # also the best validated checkpoint
    # best | last. Adversarial training trades L1 for sharpness, so that the
    # best validated HQ network is its first.
    export_policy='best',
    num_sample_rows=2,  # rows of the first validation batch that are drawn
    sample_video=True,  # a validation clip with its sound, generator and hq
  )
