"""Why a network does not learn: a SyncNet at chance, a deaf generator.

`diagnosis_report` explains a SyncNet that is still at chance, as lines of
findings and remedies; `train` writes it once. `audio_sensitivity` measures
whether a generator responds to its audio:

  python -m lipsync_jax.training.diagnostics WEIGHTS SHARDS [--split SPLIT]
"""

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lipsync_jax import models
from lipsync_jax.common import cli
from lipsync_jax.data import batches
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.data.windows import WINDOW_SPECS, WindowSpec
from lipsync_jax.training import losses
from lipsync_jax.weights import convert

FEW_SPEAKERS = 20  # with fewer, a SyncNet learns persons instead of sounds
AT_CHANCE = 0.97  # of the loss of chance: nothing was learned
MAX_OFFSET = 1  # frames by which training clips may be out of sync
REPORT = 'diagnosis.txt'  # in the workdir
BATCH, BATCHES = 24, 8  # examples that `audio_sensitivity` is measured on


def chance_loss(spec: WindowSpec) -> float:
  """Sync loss of an untrained SyncNet: the logarithm of the choices."""
  return math.log(spec.windows_per_clip if spec.is_contrastive else 2)


def is_at_chance(means: dict[str, float], expected: float) -> bool:
  """Whether a validation loss is no better than that of chance."""
  return means['sync'] > AT_CHANCE * expected


def diagnosis_due(
  spec: WindowSpec,
  report_step: int,
  step: int,
  means: dict[str, float],
  facts: dict,
) -> bool:
  """Whether a SyncNet is at chance at `report_step` or later.

  True once only: sets 'explained' in `facts`, which the checkpoint keeps.

  Args:
    spec: of its examples.
    means: of the validation.
  """
  if step < report_step or facts.get('explained'):
    return False
  if not is_at_chance(means, chance_loss(spec)):
    return False
  facts['explained'] = True
  return True


def overfit_one_batch(
  step: Callable, state, max_steps: int = 60
) -> list[float]:
  """Sync losses of training on one batch repeatedly; donates `state`.

  Args:
    step: state -> (state, metrics), always with the same batch.
    max_steps: stops earlier once the loss is halved.
  """
  history = []
  while len(history) < max_steps and not (history and loss_halved(history)):
    state, values = step(state)
    history.append(float(jax.device_get(values['sync'])))
  return history


def loss_halved(history: Sequence[float]) -> bool:
  """Whether a loss fell below half of its first value."""
  return min(history) < history[0] / 2


def offset_histogram(offsets: Float[np.ndarray, 'n']) -> dict[int, int]:
  """Number of clips by their measured A/V offset in frames."""
  known = offsets[np.isfinite(offsets)]
  values, counts = np.unique(np.round(known).astype(int), return_counts=True)
  return dict(zip(values.tolist(), counts.tolist(), strict=True))


def diagnosis_report(
  means: dict[str, float],
  expected: float,
  history: list[float],
  offsets: Float[np.ndarray, 'n'],
  speakers: Sequence[str],
) -> str:
  """Findings and remedies, one a line.

  Args:
    means: of the validation.
    expected: loss of chance.
    history: of `overfit_one_batch`.
    offsets: frames, of every training clip; NaN if not measured.
    speakers: of every training clip.
  """
  lines = [
    f'SyncNet is at chance: validation loss {means["sync"]:.3f} of '
    f'{expected:.3f}, {means["accuracy"]:.1%} right.'
  ]
  lines.append(_describe_overfitting(history))
  lines.append(_describe_offsets(offset_histogram(offsets), len(offsets)))
  count = len(set(speakers))
  lines.append(
    f'{count} speakers in {len(speakers)} clips: '
    + (
      'enough to learn sounds instead of persons.'
      if count >= FEW_SPEAKERS
      else f'few; add speakers ({FEW_SPEAKERS} or more), set '
      '--config.data.sampling=speaker and keep the augmentation on.'
    )
  )
  return '\n'.join(lines) + '\n'


def _describe_overfitting(history: list[float]) -> str:
  first, least = history[0], min(history)
  range_ = f'({first:.2f} to {least:.2f} in {len(history)} steps)'
  if loss_halved(history):
    return (
      f'One batch can be overfitted {range_}: the network and the learning '
      'rate work; check the data below, set --config.loss.lip_opening=0.5 '
      '(with data.kind=contrastive), then train longer.'
    )
  if max(history) - least < 0.01 * first:
    return (
      f'Training on one batch changes nothing {range_}: the learning rate is '
      'too low or zero; raise --config.optimizer.learning_rate.'
    )
  return (
    f'One batch cannot be overfitted {range_}: lower '
    '--config.optimizer.learning_rate tenfold, or use '
    '--config.data.kind=contrastive.'
  )


def _describe_offsets(table: dict[int, int], clips: int) -> str:
  known = sum(table.values())
  if not known:
    return (
      f'No clip of {clips} has a measured offset: build the shards with '
      'data_prep, which measures and corrects it; clips out of sync are the '
      'usual cause.'
    )
  far = sum(n for offset, n in table.items() if abs(offset) > MAX_OFFSET)
  counts = ', '.join(f'{k:+d}: {n}' for k, n in sorted(table.items()))
  text = f'Offsets in frames ({known} of {clips} clips known): {counts}; '
  if far > 0.1 * known:
    return text + (
      f'{far / known:.0%} are more than {MAX_OFFSET} off: correct or leave out '
      'these clips when you build the shards.'
    )
  return text + 'the data are in sync.'


def audio_sensitivity(
  generate: Callable, batch: dict
) -> dict[str, Float[Array, 'b']]:
  """How a generator's mouths depend on the audio; L1 on the mouth.

  Args:
    generate: (mel [b, 80, 16, 1], face [b, h, w, 6]) -> [b, h, w, 3].
    batch: of `batches.to_model_inputs`; the first frame of each window counts.

  Returns:
    own: against real lips, with the example's own audio.
    other: against real lips, with the audio of another example.
    reference: against real lips, of the reference frame. A generator that
      copies its reference gets this.
    moved: between the outputs for own and other audio.
  """
  mel, face, target = (
    jnp.asarray(batch[k][:, 0]) for k in ('mels', 'face', 'target')
  )
  mouth = losses.mouth_weight_map(target.shape[-2])
  own, other = generate(mel, face), generate(mel[::-1], face)
  return {
    'own': losses.l1_loss(own, target, mouth),
    'other': losses.l1_loss(other, target, mouth),
    'reference': losses.l1_loss(face[..., 3:], target, mouth),
    'moved': losses.l1_loss(own, other, mouth),
  }


def measure_audio_sensitivity(
  weights: str, shards: str, split: str
) -> dict[str, float]:
  """Means of `audio_sensitivity` over a split, and how often `own` is best.

  Args:
    weights: file of a generator.
    shards: folder of TFRecord shards.
  """
  net = convert.load_any(weights, 'generator')
  module = models.build_model('generator', net.size, net.width)
  run = jax.jit(functools.partial(module.apply, train=False))
  generate = functools.partial(run, net.variables)
  clips = ClipDataset(shards, split)
  index = batches.index_dataset(clips, WINDOW_SPECS['generator'])
  stream = batches.example_batches(
    clips, index, BATCH, net.size, seed=0, threads=2
  )
  rows = [
    audio_sensitivity(generate, batches.to_model_inputs(batch))
    for batch in itertools.islice(stream, BATCHES)
  ]
  values = {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
  means = {name: float(x.mean()) for name, x in values.items()}
  better = float((values['own'] < values['other']).mean())
  return means | {'own_is_better': better}


def main(argv: Sequence[str] | None = None) -> int:
  """Print the audio sensitivity of a generator."""
  parser = argparse.ArgumentParser(
    'python -m lipsync_jax.training.diagnostics',
    description='Measure whether a generator responds to its audio.',
  )
  parser.add_argument('weights', help='file of a generator')
  parser.add_argument('shards', help='folder of TFRecord shards')
  parser.add_argument('--split', default='val', help='of the shards (val)')
  args = parser.parse_args(argv)

  def action() -> str:
    means = measure_audio_sensitivity(args.weights, args.shards, args.split)
    return '\n'.join(f'{name:14}{x:.4f}' for name, x in means.items())

  return cli.run_command(action)


if __name__ == '__main__':
  sys.exit(main())
