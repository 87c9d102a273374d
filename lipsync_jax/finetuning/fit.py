"""Fit the bundled articulator to one person's own speech.

All layers learn for a few steps; the result is then moved back towards the
bundled weights (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models"), which keeps what the bundled weights know of other sounds.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from lipsync_jax.data import motion_batches
from lipsync_jax.data.motion import MotionDataset
from lipsync_jax.data.motion_batches import MotionAugmentation
from lipsync_jax.faces import mesh
from lipsync_jax.models import articulator
from lipsync_jax.training import articulator_stage, articulator_steps
from lipsync_jax.training.articulator_steps import ArticulatorLossWeights
from lipsync_jax.weights.articulation import Articulation

STEPS = 60
BATCH = 16  # windows of 32 frames
LEARNING_RATE = 3e-4
GRADIENT_NORM = 1.0
KEPT_SHARE = 0.6  # of the change of the weights
HELD_OUT = 4  # one segment of so many measures the fit
AUGMENTATION = MotionAugmentation(silence=0.05)
# Closures count more than in the training: few frames show them here.
LOSS = ArticulatorLossWeights(lip_gap=0.4, closure=0.3)


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted articulator.

  Attributes:
    variables: of `models.articulator.Articulator`.
    before, after: correlation of the lip opening on segments that the fit did
      not see, with the bundled and with the fitted weights.
  """

  variables: dict
  before: float
  after: float


def fit_articulator(
  base: Articulation,
  motion: MotionDataset,
  seed: int,
  tick: Callable[[], object],
) -> Fit:
  """Fit twice: to three quarters of the segments, to measure, and to all.

  Args:
    base: the bundled articulator.
    motion: segments of one speaker, at least two.
    seed: of order, augmentation and dropout.
    tick: called after each of the 2 * STEPS steps.
  """
  numbers = np.arange(len(motion))
  held = numbers % HELD_OUT == HELD_OUT - 1
  held[-1] |= not held.any()
  seen, unseen = (take(motion, numbers[part]) for part in (~held, held))
  trial = train(base, seen, seed, tick)
  gaps = mesh.lip_gaps(base.basis)
  before, after = (
    articulator_stage.measure_clips(
      dataclasses.replace(base, variables=value), unseen, gaps, BATCH
    )['correlation']
    for value in (base.variables, trial)
  )
  return Fit(train(base, motion, seed, tick), before, after)


def take(motion: MotionDataset, clips: Int[np.ndarray, 'k']) -> MotionDataset:
  """The dataset of some clips."""
  frames, columns = motion.frames, motion.columns
  none = np.zeros(0, np.int64)
  rows = np.concatenate(
    [none, *(np.arange(frames[i], frames[i + 1]) for i in clips)]
  )
  at = np.concatenate(
    [none, *(np.arange(columns[i], columns[i + 1]) for i in clips)]
  )
  return dataclasses.replace(
    motion,
    keys=tuple(motion.keys[i] for i in clips),
    speakers=motion.speakers[clips],
    frames=np.cumsum([0, *np.diff(frames)[clips]]),
    columns=np.cumsum([0, *np.diff(columns)[clips]]),
    mel=motion.mel[at],
    coefficients=motion.coefficients[rows],
    gaps=motion.gaps[rows],
    speech=motion.speech[rows],
  )


def train(
  base: Articulation,
  motion: MotionDataset,
  seed: int,
  tick: Callable[[], object],
) -> dict:
  """The variables after STEPS steps, moved back by 1 - KEPT_SHARE."""
  sampler = motion_batches.MotionSampler(
    motion, BATCH, seed, AUGMENTATION, by_speaker=0.0
  )
  start = base.variables['params']
  optimizer = optax.chain(
    optax.clip_by_global_norm(GRADIENT_NORM),
    optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS)),
  )
  step = _compile_step(base, optimizer)
  params, state = start, optimizer.init(start)
  for number in range(STEPS):
    params, state = step(params, state, sampler[number])
    tick()
  return {
    'params': jax.tree.map(
      lambda old, new: old + KEPT_SHARE * (np.asarray(new) - old),
      start,
      params,
    )
  }


def _compile_step(
  base: Articulation, optimizer: optax.GradientTransformation
) -> Callable:
  net = articulator.Articulator(base.width)
  gaps = jnp.asarray(mesh.lip_gaps(base.basis), jnp.float32)
  importance = jnp.asarray(component_sizes(base.basis))

  def loss(params, batch):
    key = jax.random.key(batch['seed'][0])
    predicted = articulator_steps.predict(net, {'params': params}, batch, key)
    terms = articulator_steps.loss_terms(
      *predicted, batch, gaps, importance, LOSS.gap_decay
    )
    return sum(getattr(LOSS, name) * x.mean() for name, x in terms.items())

  @jax.jit
  def step(params, state, batch):
    grads = jax.grad(loss)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return step


def component_sizes(
  basis: Float[np.ndarray, 'n p 3'],
) -> Float[np.ndarray, 'n']:
  """Size of each component's displacement, mean 1: its error's weight."""
  sizes = np.sqrt(np.square(basis, dtype=np.float64).sum((1, 2)))
  return (sizes / sizes.mean()).astype(np.float32)
