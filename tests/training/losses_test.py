"""losses.py against plain float64 formulas, and where those break down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax.training import losses


def units(shape, seed=0, positive=True):
  x = np.random.default_rng(seed).standard_normal(shape)
  x = np.abs(x) if positive else x
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def f32(*arrays):
  return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


@pytest.mark.parametrize('label', [0.0, 1.0])
def test_cosine_bce_is_the_published_one(label):
  a, v = units((3, 4, 16)), units((3, 4, 16), 1)
  d = (a * v).sum(-1)
  expected = -np.log(d) if label else -np.log(1 - d)
  found = losses.cosine_bce(*f32(a, v), jnp.full((3, 4), label))
  np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_wrong_label_keeps_its_digits_near_agreement():
  """float32 1 - cos would be off by a tenth here."""
  a = units((16,))
  v = a + 0.06 * units((16,), 5, positive=False)
  v /= np.linalg.norm(v)
  expected = -np.log(1 - (a * v).sum())
  found = losses.cosine_bce(*f32(a[None], v[None]), jnp.zeros(1))
  assert expected > 6
  np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_gradients_are_finite_and_alive_everywhere():
  """At cosine 0 the published form has none, at 1 with label 0 neither."""
  e = np.eye(4)
  a = f32(np.stack([e[0], e[0]]))[0]
  v = f32(np.stack([e[1], e[0]]))[0]

  def loss(a, v):
    return losses.cosine_bce(a, v, jnp.array([1.0, 0.0])).sum()

  grad = jax.grad(loss)(a, v)
  assert np.isfinite(grad).all()
  assert np.abs(grad[0]).max() > 0
  assert losses.cosine_bce(a, v, jnp.array([1.0, 0.0])).max() < 9
  x = jnp.array([-200.0, 200.0])
  for loss in (losses.discriminator_real_loss, losses.discriminator_fake_loss):
    assert np.isfinite(loss(x)).all()
    slope = jax.vmap(jax.grad(loss))(x)
    assert np.abs(slope).max() == pytest.approx(1)


def test_straight_log_is_smooth_at_the_floor():
  floor = losses.LOG_FLOOR
  x = jnp.array([0.5, floor * 1.001, floor * 0.999])
  y, slope = (
    losses.log_linear_below_floor(x),
    jax.vmap(jax.grad(losses.log_linear_below_floor))(x),
  )
  np.testing.assert_allclose(y[0], np.log(0.5), rtol=1e-6)
  np.testing.assert_allclose(y[1:], np.log(floor), atol=2e-3)
  np.testing.assert_allclose(slope[1], slope[2], rtol=2e-3)


def test_contrastive_equals_two_cross_entropies():
  a, v = units((2, 5, 8)), units((2, 5, 8), 1)
  logits = np.exp(1.5) * np.einsum('bid,bjd->bij', a, v)
  expected = np.zeros((2, 5))
  for b, i in np.ndindex(2, 5):
    for row in (logits[b, i], logits[b, :, i]):
      expected[b, i] += 0.5 * (np.log(np.exp(row).sum()) - row[i])
  found = losses.info_nce(*f32(a, v), jnp.float32(1.5))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  alone = losses.info_nce(*f32(a[:, :1], v[:, :1]), jnp.float32(1.5))
  np.testing.assert_allclose(alone, 0, atol=1e-6)


def test_vectors_tell_the_lip_opening():
  """Nothing is lost by those that hold it; what all windows share is free."""
  rng = np.random.default_rng(0)
  d = 40
  waves = [np.cos(np.pi * (np.arange(d) + 0.5) * t / d) for t in range(1, 6)]
  opening = losses.OPENING_STD * rng.uniform(-1, 1, (2, 6, 5))
  wanted = (opening - opening.mean(1, keepdims=True)) / losses.OPENING_STD
  held = (
    np.einsum('bnt,td->bnd', wanted, waves)
    * np.sqrt(2 / d)
    / losses.OPENING_SCALE
  )
  held += rng.normal(size=(2, 1, d))
  np.testing.assert_allclose(
    losses.lip_opening_regression(*f32(held, opening)), 0, atol=1e-9
  )
  np.testing.assert_allclose(
    losses.lip_opening_regression(*f32(0 * held, opening)),
    (wanted**2).mean((1, 2)),
    rtol=1e-5,
  )


def test_contrastive_has_a_ceiling_on_its_scale():
  a, v = f32(units((4, 8)), units((4, 8), 1))
  top = losses.info_nce(a, v, jnp.float32(losses.MAX_LOG_SCALE))
  np.testing.assert_array_equal(losses.info_nce(a, v, jnp.float32(9)), top)


def test_retrieval_counts_only_clear_wins():
  a = f32(np.eye(4))[0]
  np.testing.assert_array_equal(losses.retrieval_accuracy(a, a), 1)
  np.testing.assert_array_equal(losses.retrieval_accuracy(a, a[::-1]), 0)
  dead = jnp.ones((4, 8)) / np.sqrt(8)
  np.testing.assert_array_equal(losses.retrieval_accuracy(dead, dead), 0)


def test_l1_and_adversarial():
  x, y = units((2, 3, 4, 4, 3)), units((2, 3, 4, 4, 3), 1)
  expected = np.abs(x - y).mean((-3, -2, -1))
  np.testing.assert_allclose(losses.l1_loss(*f32(x, y)), expected, rtol=1e-5)
  p = 1 / (1 + np.exp(-1.3))
  one = jnp.array([1.3])
  np.testing.assert_allclose(
    losses.discriminator_real_loss(one), -np.log(p), rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.discriminator_fake_loss(one), -np.log(1 - p), rtol=1e-6
  )


def test_lips_count_where_they_are():
  bump = losses.mouth_weight_map(96)
  assert bump.mean() == pytest.approx(1)
  assert bump[72, 48] == bump.max() > 5 > 0.1 > bump[40].max()
  black = jnp.zeros((96, 96, 3))
  eyes, mouth = black.at[20:40].set(1), black.at[62:82, 30:66].set(1)
  assert losses.l1_loss(eyes, black, bump) < 1e-3
  assert losses.l1_loss(mouth, black, bump) > 0.5 > losses.l1_loss(mouth, black)
  np.testing.assert_array_equal(
    losses.l1_loss(mouth, black, np.ones_like(bump)),
    losses.l1_loss(mouth, black),
  )


def test_motion_is_blind_to_what_stays():
  rng = np.random.default_rng(0)
  true = jnp.asarray(rng.random((3, 2, 32, 32, 3)), jnp.float32)
  bump = losses.mouth_weight_map(32)
  softer = 0.5 + true - 0.3 * rng.random((3, 1, 32, 32, 3))
  np.testing.assert_allclose(
    losses.temporal_difference_loss(softer, true, bump), 0, atol=1e-9
  )
  still = losses.temporal_difference_loss(jnp.zeros_like(true), true, bump)
  half = (true[:, 0] - true[:, 1]) / 2  # of either from their mean
  expected = (np.square(half) * bump).mean((1, 2, 3))
  np.testing.assert_allclose(still, expected, rtol=1e-5)


def test_sync_weight_follows_the_measured_loss():
  goal = [
    losses.sync_weight_target(x, 0.03, 1.0, 0.5) for x in (2, 1, 0.75, 0.5, 0.1)
  ]
  np.testing.assert_allclose(goal, [0, 0, 0.015, 0.03, 0.03])
  hard = [
    losses.sync_weight_target(x, 0.03, 0.75, 0.75) for x in (0.76, 0.75, 0.74)
  ]
  assert hard == [0, 0, 0.03]
  assert losses.sync_weight_target(5.0, 0.03, 0.75, 0.75, previous=0.03) == 0.03


def test_weight_walks_and_arrives():
  now = jnp.float32(0)
  seen = []
  for _ in range(4):
    now = losses.move_towards(now, jnp.float32(0.025), 0.01)
    seen.append(float(now))
  np.testing.assert_allclose(seen, [0.01, 0.02, 0.025, 0.025], rtol=1e-6)
  down = losses.move_towards(now, jnp.float32(0), 0.01)
  np.testing.assert_allclose(down, 0.015, rtol=1e-6)
