"""All metrics of one eval clip, as plain numbers.

METRICS describes each one; the report prints the descriptions.

Shapes: n frames, s shifts.
"""

import base64
import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from lipsync_jax.evaluation import (
  image_metrics,
  landmarks,
  ridge_scorer,
  sync_metrics,
  syncnet_scorer,
)
from lipsync_jax.evaluation.clip import (
  SAMPLES_PER_FRAME,
  EvalClip,
  face_crops,
  piece_ranges,
  with_audio,
)
from lipsync_jax.evaluation.ridge_scorer import RidgeScorer
from lipsync_jax.evaluation.syncnet_scorer import SyncNetScorer
from lipsync_jax.faces import crop
from lipsync_jax.faces.detector import FaceDetector

SIDE = 256  # pixels of the squares that are compared
GROWN = 1.25  # scale of the crop, so that it includes the border
STRIP = (8, 128)  # pictures of a strip, pixels of each


@dataclasses.dataclass(frozen=True)
class Metric:
  """One column of the report."""

  key: str
  title: str
  unit: str
  better: str  # low | high | truth (as the ground truth's) | zero | one
  meaning: str  # for the reader

  @property
  def measures_sync(self) -> bool:
    """Whether it compares lips with the sound."""
    return self.key.startswith(('judge', 'lse', 'ridge'))


_HELD_OUT = 'by the held-out SyncNet, which trained no generator'
_V2 = 'by the published SyncNet v2'
METRICS = tuple(
  Metric(*row)
  for row in (
    ('judge_0', 'Held-out SyncNet distance', '', 'low',
     'Mean distance of lips and sound without a shift, ' + _HELD_OUT),
    ('judge_d', 'Smallest distance', '', 'low',
     'The same at the best shift, as in LSE-D: independent of a constant '
     'delay of the sound'),
    ('judge_c', 'Confidence', '', 'high',
     'Median minus smallest distance over all shifts, ' + _HELD_OUT),
    ('judge_offset', 'Offset', 'frames', 'zero',
     'Shift of the smallest distance, in fractions of a frame; positive: sound '
     'early; median of clips'),
    ('judge_hit', 'Retrieval', '%', 'high',
     'Windows whose own sound is nearest of 11, three frames apart; '
     'chance is 9 %'),
    ('lse_0', 'LSE-D without shift', '', 'low',
     'Mean distance of lips and sound without a shift, ' + _V2),
    ('lse_d', 'LSE-D', '', 'low', 'Smallest distance, ' + _V2),
    ('lse_c', 'LSE-C', '', 'high', 'Confidence, ' + _V2),
    ('lse_offset', 'LSE offset', 'frames', 'zero', 'Offset, ' + _V2),
    ('ridge_r', 'Ridge', 'r', 'high',
     'Correlation of lip opening, by landmarks, with its prediction from the '
     'sound by a linear regression; no network is involved'),
    ('ridge_offset', 'Ridge offset', 'frames', 'zero',
     'Shift of the highest correlation; coarse on a short clip'),
    ('psnr', 'PSNR', 'dB', 'high',
     'Of the face against the ground truth; 100: equal'),
    ('ssim', 'SSIM', '', 'high', 'Of the face against the ground truth'),
    ('lips', 'Lip landmarks', '% of face', 'low',
     'Mean distance of 40 lip landmarks from the ground truth'),
    ('opening_error', 'Opening error', '% of face', 'low',
     'Mean difference of the inner lips\' gap from the ground truth'),
    ('sharpness', 'Sharpness', '× truth', 'one',
     'Gradient energy of the mouth relative to the ground truth\'s'),
    ('motion', 'Mouth motion', '% of face', 'truth',
     'Standard deviation of the inner lips\' gap over time; under silence '
     'it is leakage and should be near 0'),
    ('jitter', 'Jitter', '% of face', 'truth',
     'Jitter of mouth and chin relative to the face; the ground truth\'s is '
     'the noise of the landmarks'),
    ('border', 'Border step', 'levels', 'low',
     'Visibility of the edge of the changed region, of 255 levels'),
    ('late', 'Duration error', 's', 'zero',
     'By how much the video is longer than its sound'),
  )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scorers:
  """What the metrics need; None leaves out the metrics of a scorer."""

  detector: FaceDetector
  ridge: RidgeScorer
  syncnet: SyncNetScorer | None = None
  syncnet_v2: Callable | None = None


def compute_metrics(
  generated: EvalClip,
  scorers: Scorers,
  *,
  points: Float[np.ndarray, 'n 89 2'] | None = None,
  truth: EvalClip | None = None,
  true_points: Float[np.ndarray, 'n 89 2'] | None = None,
  has_speech: bool = True,
  same_words: bool = True,
) -> dict:
  """All metrics of a clip.

  Args:
    generated: the clip.
    scorers: loaded.
    points: its landmarks, if known.
    truth, true_points: the clip from which it was generated, and its landmarks;
      None leaves out the comparison.
    has_speech: False for a silent sound: no sync metrics.
    same_words: False if the ground truth speaks other words.

  Returns:
    'values' by the keys of METRICS; 'curves' by judge, lse and ridge, each a
    list over the shifts; 'frames'.
  """
  points = (
    landmarks.read_landmarks(generated, scorers.detector)
    if points is None
    else points
  )
  width, parts = generated.crops[:, 2], list(piece_ranges(generated))
  values = {'late': generated.late}
  curves: dict[str, list] = {}
  if has_speech:
    _add_sync_metrics(generated, points, scorers, values, curves)
  values['motion'] = image_metrics.mouth_motion(points, width, parts)
  values['jitter'] = image_metrics.landmark_jitter(points, width, parts)
  if truth is not None:
    count = min(len(generated), len(truth))
    values |= compare_to_truth(
      _first_frames(generated, count),
      _first_frames(truth, count),
      points[:count],
      true_points[:count],
      same_words,
    )
  return {
    'values': {k: _to_json(v) for k, v in values.items()},
    'curves': {k: [_to_json(v) for v in c] for k, c in curves.items()},
    'frames': len(generated),
  }


def _add_sync_metrics(
  generated: EvalClip, points, scorers: Scorers, values, curves
) -> None:
  """Add the metrics that compare lips with the sound."""
  if scorers.syncnet is not None:
    table = syncnet_scorer.window_distances(generated, scorers.syncnet)
    scores = sync_metrics.sync_scores(table)
    curves['judge'] = scores.curve
    values |= {
      'judge_0': scores.curve[sync_metrics.MAX_SHIFT],
      'judge_d': scores.distance,
      'judge_c': scores.confidence,
      'judge_offset': scores.fine,
      'judge_hit': 100 * sync_metrics.retrieval_rate(table),
    }
  if scorers.syncnet_v2 is not None:
    pictures = [
      crop.extract_crop(
        picture,
        sync_metrics.syncnet_v2_crop(crop.crop_from_row(row)),
        sync_metrics.SYNCNET_V2_SIZE,
      )
      for picture, row in zip(generated.pictures, generated.crops, strict=True)
    ]
    pair = sync_metrics.syncnet_v2_embeddings(
      pictures, generated.wave, scorers.syncnet_v2
    )
    scores = sync_metrics.sync_scores(
      sync_metrics.distance_table(*pair, zeros=True)
    )
    curves['lse'] = scores.curve
    values |= {
      'lse_0': scores.curve[sync_metrics.MAX_SHIFT],
      'lse_d': scores.distance,
      'lse_c': scores.confidence,
      'lse_offset': scores.offset,
    }
  gap = image_metrics.lip_opening(points, generated.crops[:, 2])
  curve = ridge_scorer.score_clip(generated, gap, scorers.ridge)
  curves['ridge'] = curve
  values['ridge_r'] = curve[ridge_scorer.MAX_SHIFT]
  values['ridge_offset'] = ridge_scorer.best_offset(curve)


def compare_to_truth(
  generated: EvalClip,
  truth: EvalClip,
  points,
  true_points,
  same_words: bool = True,
) -> dict[str, float]:
  """Metrics of a generated clip against the ground truth."""
  a, b = (face_crops(clip, SIDE, GROWN) for clip in (generated, truth))
  middle = int(SIDE * (1 - 1 / GROWN) / 2)
  inner = np.s_[:, middle : SIDE - middle, middle : SIDE - middle]
  rows = truth.crops * np.array([1, 1, GROWN, GROWN, 1])
  boxes = image_metrics.mouth_boxes(true_points, rows, SIDE)
  values = {
    'sharpness': image_metrics.sharpness(a, b, boxes),
    'border': image_metrics.seam_step(a, b),
  }
  if same_words:
    width = truth.crops[:, 2]
    # Landmarks in pixels of the ground truth, at any size of the clip.
    scale = width / generated.crops[:, 2]
    moved = points * scale[:, None, None]
    gaps = image_metrics.lip_opening(moved, width) - image_metrics.lip_opening(
      true_points, width
    )
    values |= {
      'psnr': float(image_metrics.psnr(a[inner], b[inner]).mean()),
      'ssim': float(image_metrics.ssim(a[inner], b[inner]).mean()),
      'lips': _mean(image_metrics.lip_distance(moved, true_points, width)),
      'opening_error': _mean(np.abs(gaps)),
    }
  return values


def contact_strip(clip: EvalClip) -> str:
  """Some pictures of a clip side by side, as JPEG in base64."""
  import cv2

  count, side = STRIP
  chosen = np.linspace(0, len(clip) - 1, count).round().astype(int)
  part = dataclasses.replace(
    clip,
    pictures=tuple(clip.pictures[i] for i in chosen),
    crops=clip.crops[chosen],
  )
  row: UInt8[np.ndarray, 'h w 3'] = np.concatenate(
    list(face_crops(part, side, 1.1)), 1
  )
  bgr = cv2.cvtColor(row, cv2.COLOR_RGB2BGR)
  _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
  return base64.b64encode(data.tobytes()).decode()


def _first_frames(clip: EvalClip, count: int) -> EvalClip:
  return with_audio(clip, clip.wave[: count * SAMPLES_PER_FRAME])


def _mean(values) -> float:
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else float('nan')


def _to_json(value) -> float | None:
  """The number rounded for JSON; None for NaN or infinity."""
  return round(float(value), 6) if np.isfinite(value) else None
