"""TODO."""

import optax


def learning_rate_schedule(
  rate: float, warmup_steps: int = 0, decay_steps: int = 0
) -> optax.Schedule:
  """Learning rate of an update: a ramp, then constant or down to zero.

  Args:
    decay_steps: updates from the first to the end of a half cosine; 0 stays
      at `rate`, as the originals do.
  """
  if decay_steps:
    return optax.warmup_cosine_decay_schedule(
      0.0 if warmup_steps else rate, rate, warmup_steps, decay_steps
    )
  if not warmup_steps:
    return optax.constant_schedule(rate)
  return optax.linear_schedule(rate / warmup_steps, rate, warmup_steps)


def adam_optimizer(
  rate: optax.Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  clip: float = 0.0,
  every: int = 1,
) -> optax.GradientTransformation:
  """Adam as in the originals (spec 4.3), with what they lack.

  Args:
    clip: greatest global norm of a gradient; 0 leaves it.
    every: batches whose gradients are averaged for one update.
  """
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  chain = optax.chain(*parts, optax.adam(rate, b1, b2, eps=1e-8))
  if every == 1:
    return chain
  return optax.MultiSteps(chain, every).gradient_transformation()
