"""Which frames of a clip make a training pair of the refiner.

A pair is a source frame, warped to the mesh of a target frame of the same clip,
and references: mouths of the same clip that are not near the target. In the
photo case the source is the most closed frame, the only reference too, and the
interior is drawn.

Shapes: n frames, p mesh points.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from lipsync_jax.faces import mesh
from lipsync_jax.models.refiner import NUM_REFERENCES
from lipsync_jax.rendering import mouth_interior

NEAR = 3  # frames; nearer ones show the target's own mouth
PHOTO_SHARE = 0.35  # of the pairs of a clip with a closed frame
PHOTO_OPENING = 0.02  # canonical units, of a closed frame, at most


@dataclasses.dataclass(frozen=True)
class PairChoice:
  """Frames of a clip.

  Attributes:
    target: the frame to paint.
    source: the frame that is warped.
    references: the most open, a middle and the most closed mouth.
    interior: the frame that lends the interior; -1 draws it.
  """

  target: int
  source: int
  references: tuple[int, ...]
  interior: int

  @property
  def photo(self) -> bool:
    """Whether the source stands for a photo."""
    return len(set(self.references) | {self.source}) == 1

  @property
  def frames(self) -> set[int]:
    """All frames that are read."""
    used = {self.target, self.source, *self.references, self.interior}
    return used - {-1}


def choose_pairs(
  shapes: Float[np.ndarray, 'n p 3'],
  count: int,
  rng: np.random.Generator,
  photo_share: float = PHOTO_SHARE,
) -> list[PairChoice]:
  """Pairs whose targets cover the openings of a clip.

  Args:
    shapes: canonical.
    count: of the pairs, at most.
    rng: random state.
    photo_share: of the pairs that stand for a photo.
  """
  opening = mesh.lip_opening(shapes)
  order = np.argsort(opening)
  # Every target comes from another part of the ranking, open ones more often.
  parts = (np.arange(count) + rng.random(count)) / count
  places = (np.sqrt(parts) * len(order)).astype(int).clip(0, len(order) - 1)
  targets = dict.fromkeys(order[places].tolist())
  pairs = []
  for target in targets:
    far = np.abs(np.arange(len(shapes)) - target) >= NEAR
    if far.sum() < NUM_REFERENCES:
      continue
    if rng.random() < photo_share:
      pair = photo_pair(opening, target, far)
    else:
      pair = video_pair(shapes, opening, target, far, rng)
    if pair is not None:
      pairs.append(pair)
  return pairs


def photo_pair(
  opening: Float[np.ndarray, 'n'], target: int, far: Bool[np.ndarray, 'n']
) -> PairChoice | None:
  """The pair of a photo with closed lips; None without such a frame."""
  frames = np.flatnonzero(far)
  source = int(frames[opening[frames].argmin()])
  if opening[source] > PHOTO_OPENING:
    return None
  return PairChoice(target, source, (source,) * NUM_REFERENCES, -1)


def video_pair(
  shapes: Float[np.ndarray, 'n p 3'],
  opening: Float[np.ndarray, 'n'],
  target: int,
  far: Bool[np.ndarray, 'n'],
  rng: np.random.Generator,
) -> PairChoice:
  """The pair of a video: a source with another mouth than the target's."""
  frames = np.flatnonzero(far)
  lips = mouth_interior.lip_shapes(shapes)
  apart = np.abs(lips[frames] - lips[target]).mean(1)
  unlike = frames[apart >= np.median(apart)]
  source = int(rng.choice(unlike))
  rank = frames[np.argsort(opening[frames])]
  references = tuple(int(rank[at]) for at in (len(rank) - 1, len(rank) // 2, 0))
  return PairChoice(
    target, source, references, lending_frame(shapes, target, far)
  )


def lending_frame(
  shapes: Float[np.ndarray, 'n p 3'], target: int, far: Bool[np.ndarray, 'n']
) -> int:
  """The frame whose interior the mesh renderer would show; -1: none opens."""
  found = mouth_interior.choose_references(shapes, far)
  if not found.size:
    return -1
  at = np.array([target])
  lips, opening = mouth_interior.lip_shapes(shapes), mesh.lip_opening(shapes)
  choice = mouth_interior.schedule_references(
    lips[at], opening[at], lips[found], opening[found]
  )
  return int(found[choice[0]])
