"""The active speaker: the person whose lips go with the source's own sound.

The lip opening that the articulator predicts from the sound is compared with
the lip opening that was measured in the frames.

Shapes: f frames of the video, n frames of one person.
"""

import numpy as np
from jaxtyping import Float

from lipsync_jax.common import disk_array
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.faces import landmarks, mesh
from lipsync_jax.faces.identity import Person
from lipsync_jax.faces.tracks import Analysis
from lipsync_jax.inference import speech
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.media import decoder
from lipsync_jax.media.types import Video
from lipsync_jax.rendering import mesh_renderer

MAX_SECONDS = 600.0  # of the video that are compared
MIN_AREA = 0.1  # of the largest person's; smaller people are not considered
MIN_FRAMES = 40  # of a person with whom the sound is compared
SLOW_SECONDS = 0.7  # slower changes are poses and the length of sentences
MAX_SHIFT = 3  # frames between sound and picture
MIN_CORRELATION = 0.3  # of an active speaker …
MIN_LEAD = 0.15  # … and its lead over everybody else
MIN_MOTION = 0.006  # of the face's width, deviation of a speaker's opening


def default_person(
  video: Video,
  analysis: Analysis,
  people: list[Person],
  networks: NetworkCache,
) -> tuple[Person, str | None]:
  """The person to lip-sync where the user names none, and a note on several.

  It is the one whose lips clearly go with the video's own sound, else the
  largest.

  Args:
    video: opened.
    analysis: of its frames.
    people: of `identity.group_people`, at least one.
    networks: has the articulator.
  """
  rivals = [p for p in people if p.area >= MIN_AREA * people[0].area]
  if len(rivals) < 2 or video.still:
    return people[0], None
  try:
    predicted = predicted_openings(video, analysis.times, networks)
  except LipSyncError:
    return people[0], _note(people, 0, 'the largest; the video has no sound')
  values = [
    lip_correlation(
      lip_openings(person, len(analysis.times)), predicted, analysis.times
    )
    for person in rivals
  ]
  best = choose_speaker(values)
  found = ', '.join(f'{value:.2f}' for value in values)
  if best is None:
    reason = "the largest; nobody's lips clearly go with the video's sound"
    return people[0], _note(people, 0, f'{reason} (correlations {found})')
  reason = f"whose lips go with the video's sound (correlations {found})"
  return people[best], _note(people, best, reason)


def _note(people: list[Person], number: int, reason: str) -> str:
  return (
    f'{len(people)} people; person {number} speaks, {reason}; --person chooses'
  )


def predicted_openings(
  video: Video, times: Float[np.ndarray, 'f'], networks: NetworkCache
) -> Float[np.ndarray, 'f']:
  """Lip openings that the articulator predicts from the video's own sound.

  They are in canonical units, and NaN after MAX_SECONDS.

  Raises:
    LipSyncError: the video has no sound that can be read.
  """
  until = min(float(times[-1]) + 1, MAX_SECONDS)
  known = times < until
  out = np.full(len(times), np.nan)
  out[known] = openings_of(own_voice(video, until), times[known], networks)
  return out


def own_voice(video: Video, until: float) -> Float[np.ndarray, '80 t']:
  """The gated log-mel of a video's own sound, up to `until` seconds.

  Raises:
    LipSyncError: the video has no sound that can be read.
  """
  sound = decoder.probe_audio(video.path)
  track = speech.SpeechTrack('', sound, speech.clock_origin(sound, video))
  return speech.voiced_mel(track, until)[0]


def openings_of(
  mel: Float[np.ndarray, '80 t'],
  times: Float[np.ndarray, 'n'],
  networks: NetworkCache,
) -> Float[np.ndarray, 'n']:
  """Lip openings that the articulator predicts at times in seconds."""
  coefficients = mesh_renderer.predict_coefficients(
    disk_array.to_disk(mel.T), times, networks.articulator()
  )
  return coefficients @ mesh.lip_gaps(networks.articulation().basis).mean(1)


def lip_openings(person: Person, count: int) -> Float[np.ndarray, 'f']:
  """Gap of the lips by the width of the face; NaN where it is not measured.

  Args:
    person: of `identity.group_people`.
    count: frames of the video.
  """
  out = np.full(count, np.nan)
  for track in person.tracks:
    gap = (
      track.points[:, landmarks.LOWER_LIP]
      - track.points[:, landmarks.UPPER_LIP]
    )
    width = track.boxes[:, 2] - track.boxes[:, 0]
    out[track.frames] = np.linalg.norm(gap, axis=-1) / np.maximum(width, 1)
  return out


def lip_correlation(
  measured: Float[np.ndarray, 'f'],
  predicted: Float[np.ndarray, 'f'],
  times: Float[np.ndarray, 'f'],
) -> float:
  """Correlation of the quick changes of two lip openings, at the best shift.

  It is 0 with fewer than MIN_FRAMES frames, or where the lips rest.
  """
  known = np.isfinite(measured) & np.isfinite(predicted)
  if known.sum() < MIN_FRAMES:
    return 0.0
  own = _quick_changes(measured[known], times[known])
  if own.std() < MIN_MOTION:
    return 0.0
  found = []
  for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
    moved = np.nan_to_num(np.roll(predicted, shift))[known]
    moved = _quick_changes(moved, times[known])
    size = float(own.std() * moved.std())
    found.append(float((own * moved).mean()) / max(size, 1e-9))
  return max(found)


def choose_speaker(
  correlations: list[float],
) -> int | None:
  """The number of the one who clearly speaks; None if nobody does."""
  order = np.argsort(correlations)[::-1]
  best = int(order[0])
  second = correlations[order[1]] if len(order) > 1 else 0.0
  lead = correlations[best] - max(second, 0.0)
  clear = correlations[best] >= MIN_CORRELATION and lead >= MIN_LEAD
  return best if clear else None


def _quick_changes(
  values: Float[np.ndarray, 'n'], times: Float[np.ndarray, 'n']
) -> Float[np.ndarray, 'n']:
  """The values minus their moving mean of SLOW_SECONDS."""
  total = np.concatenate([[0.0], np.cumsum(values)])
  low = np.searchsorted(times, times - SLOW_SECONDS / 2)
  high = np.searchsorted(times, times + SLOW_SECONDS / 2, side='right')
  calm = values - (total[high] - total[low]) / (high - low)
  return calm - calm.mean()
