"""A face drawn by arithmetic: the 89 landmarks with known geometry."""

import numpy as np

from lipsync_jax.faces import landmarks


def face(cx=300.0, cy=200.0, width=100.0, roll=0.0, gape=0.0):
  """Landmarks [n, 2] of a face `width` wide and 1.3 times as high.

  `gape` opens the lips by this share of the width; the jaw follows by 0.7 of
  it, as in people. `roll` is radians.
  """
  x, y = np.zeros(89), np.zeros(89)
  turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
  x[landmarks.OVAL], y[landmarks.OVAL] = (
    0.5 * np.sin(turn),
    -0.65 * np.cos(turn),
  )
  jaw = np.r_[10:27]
  y[jaw] += 0.7 * gape * np.maximum(y[jaw], 0) / 0.65
  lip = np.linspace(0, 2 * np.pi, 20, endpoint=False)
  for part, wide, high in (
    (landmarks.OUTER_LIPS, 0.2, 0.06),
    (landmarks.INNER_LIPS, 0.15, 0),
  ):
    x[part], y[part] = -wide * np.cos(lip), 0.35 - high * np.sin(lip)
    y[part] += gape * (np.sin(lip) < -1e-9)
  x[landmarks.EYES], y[landmarks.EYES] = [-0.3, -0.1, 0.1, 0.3], -0.1
  x[landmarks.IRISES], y[landmarks.IRISES] = [-0.2, 0.2], -0.1
  x[landmarks.WINGS], y[landmarks.WINGS] = [-0.12, 0.12], 0.15
  x[landmarks.CHEEKS], y[landmarks.CHEEKS] = [-0.3, 0.3], 0.15
  y[[landmarks.NOSE, landmarks.SUBNASALE, landmarks.BRIDGE]] = 0.12, 0.2, -0.12
  c, s = np.cos(roll), np.sin(roll)
  turned = np.stack([c * x - s * y, s * x + c * y], -1)
  return turned * width + np.array([cx, cy])
