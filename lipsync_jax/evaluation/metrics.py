"""Appraisal: every measure of one take, as plain numbers.

MEASURES says what each number means; a report prints it beside them.
Alphabet: `n` frames, `p` landmarks, `s` shifts.
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

SIDE = 256  # pixels of the square on which pictures are compared
GROWN = 1.25  # of the crop, so that the whole border is seen
STRIP = (8, 128)  # pictures in a strip, pixels of each


@dataclasses.dataclass(frozen=True)
class Metric:
  """One column of a report."""

  key: str
  title: str
  unit: str
  better: str  # low | high | truth (as the ground truth's) | zero | one
  means: str  # for the reader

  @property
  def of_sync(self) -> bool:
    """Whether it asks if lips and sound belong together."""
    return self.key.startswith(('judge', 'lse', 'ridge'))


_JUDGE = 'by the judge, a SyncNet that taught no generator'
_V2 = 'by the published SyncNet v2'
METRICS = tuple(
  Metric(*row)
  for row in (
    ('judge_0', 'Judge distance as is', '', 'low',
     'Mean distance of lips and sound as they are, ' + _JUDGE),
    ('judge_d', 'Least judge distance', '', 'low',
     'The same at the best of all shifts, as LSE-D is defined: it forgives '
     'sound that is late or early'),
    ('judge_c', 'Judge confidence', '', 'high',
     'Median minus least distance over all shifts, ' + _JUDGE),
    ('judge_offset', 'Judge offset', 'frames', 'zero',
     'Shift of the least distance, to parts of a frame, positive: sound '
     'early; median of clips'),
    ('judge_hit', 'Retrieval', '%', 'high',
     'Windows whose own sound is nearest of 11, three frames apart; '
     'chance is 9 %'),
    ('lse_0', 'LSE-D as is', '', 'low',
     'Mean distance of lips and sound as they are, ' + _V2),
    ('lse_d', 'LSE-D', '', 'low', 'As least judge distance, ' + _V2),
    ('lse_c', 'LSE-C', '', 'high', 'As judge confidence, ' + _V2),
    ('lse_offset', 'LSE offset', 'frames', 'zero', 'As judge offset, ' + _V2),
    ('ridge_r', 'Ridge', 'r', 'high',
     'Correlation of lip opening, by landmarks, with what a linear '
     'regression hears; no network takes part'),
    ('ridge_offset', 'Ridge offset', 'frames', 'zero',
     'Shift of the highest such correlation; coarse on a short clip'),
    ('psnr', 'PSNR', 'dB', 'high', 'Of the face against the truth; 100: equal'),
    ('ssim', 'SSIM', '', 'high', 'Of the face against the truth'),
    ('lips', 'Lip landmarks', '% of face', 'low',
     'Mean distance of 40 lip landmarks from the truth, of the face width'),
    ('opening_error', 'Opening error', '% of face', 'low',
     'Mean difference of the inner lips\' gap from the truth'),
    ('sharpness', 'Sharpness', '× truth', 'one',
     'Gradient energy of the mouth over the truth\'s; 1 is as sharp'),
    ('motion', 'Mouth motion', '% of face', 'truth',
     'Deviation of the inner lips\' gap over time; when driven by silence '
     'it is leakage and should be near 0'),
    ('jitter', 'Jitter', '% of face', 'truth',
     'Trembling of mouth and chin against the rest of the face; compare '
     'with the ground truth\'s, which holds the landmarks\' own noise'),
    ('border', 'Border step', 'levels', 'low',
     'Jump of the change at the edge of what was changed, of 255 levels'),
    ('late', 'Duration error', 's', 'zero',
     'By how much the video outlasts its sound'),
  )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scorers:
  """What measures need; None leaves theirs out."""

  detector: FaceDetector
  ridge: RidgeScorer
  judge: SyncNetScorer | None = None
  syncnet_v2: Callable | None = None


def compute_metrics(
  made: EvalClip,
  tools: Scorers,
  *,
  points: Float[np.ndarray, 'n 89 2'] | None = None,
  truth: EvalClip | None = None,
  true_points: Float[np.ndarray, 'n 89 2'] | None = None,
  heard: bool = True,
  same_words: bool = True,
) -> dict:
  """Measures of a take.

  Args:
    points: its landmarks, where they are known already.
    truth, true_points: the take it was made from, frame by frame; None
      leaves out what compares with it.
    heard: False where the sound is silence, which no lips fit.
    same_words: False where the truth speaks other words.

  Returns:
    'values' by the keys of MEASURES, 'curves' by judge, lse and ridge, each
    a list over the shifts, 'frames'.
  """
  points = (
    landmarks.read_landmarks(made, tools.detector) if points is None else points
  )
  width, parts = made.crops[:, 2], list(piece_ranges(made))
  values = {'late': made.late}
  curves: dict[str, list] = {}
  if heard:
    _add_sync_metrics(made, points, tools, values, curves)
  values['motion'] = image_metrics.mouth_motion(points, width, parts)
  values['jitter'] = image_metrics.landmark_jitter(points, width, parts)
  if truth is not None:
    count = min(len(made), len(truth))
    values |= compare_to_truth(
      _sample_frames(made, count), _sample_frames(truth, count), points[:count],
      true_points[:count], same_words,
    )  # fmt: skip
  return {
    'values': {k: _to_json(v) for k, v in values.items()},
    'curves': {k: [_to_json(v) for v in c] for k, c in curves.items()},
    'frames': len(made),
  }


def _add_sync_metrics(
  made: EvalClip, points, tools: Scorers, values, curves
) -> None:
  """Add what asks whether lips and sound belong together."""
  if tools.judge is not None:
    table = syncnet_scorer.window_distances(made, tools.judge)
    found = sync_metrics.sync_scores(table)
    curves['judge'] = found.curve
    values |= {
      'judge_0': found.curve[sync_metrics.MAX_SHIFT],
      'judge_d': found.distance,
      'judge_c': found.confidence,
      'judge_offset': found.fine,
      'judge_hit': 100 * sync_metrics.retrieval_rate(table),
    }
  if tools.syncnet_v2 is not None:
    pictures = [
      crop.extract_crop(
        picture,
        sync_metrics.syncnet_v2_crop(crop.crop_from_row(row)),
        sync_metrics.SYNCNET_V2_SIZE,
      )
      for picture, row in zip(made.pictures, made.crops, strict=True)
    ]
    pair = sync_metrics.syncnet_v2_embeddings(
      pictures, made.wave, tools.syncnet_v2
    )
    found = sync_metrics.sync_scores(
      sync_metrics.distance_table(*pair, zeros=True)
    )
    curves['lse'] = found.curve
    values |= {
      'lse_0': found.curve[sync_metrics.MAX_SHIFT],
      'lse_d': found.distance,
      'lse_c': found.confidence,
      'lse_offset': found.offset,
    }
  gap = image_metrics.lip_opening(points, made.crops[:, 2])
  found = ridge_scorer.score_clip(made, gap, tools.ridge)
  curves['ridge'] = found
  values['ridge_r'] = found[ridge_scorer.MAX_SHIFT]
  values['ridge_offset'] = ridge_scorer.best_offset(found)


def compare_to_truth(
  made: EvalClip, truth: EvalClip, points, true_points, same_words: bool = True
) -> dict[str, float]:
  """What sets a made take against the true one."""
  a, b = (face_crops(take, SIDE, GROWN) for take in (made, truth))
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
    # Landmarks in pixels of the truth, whatever the size of what was made.
    scale = width / made.crops[:, 2]
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


def contact_strip(take: EvalClip) -> str:
  """Some pictures of a take side by side: JPEG in base64."""
  import cv2

  count, side = STRIP
  chosen = np.linspace(0, len(take) - 1, count).round().astype(int)
  part = dataclasses.replace(
    take,
    pictures=tuple(take.pictures[i] for i in chosen),
    crops=take.crops[chosen],
  )
  row: UInt8[np.ndarray, 'h w 3'] = np.concatenate(
    list(face_crops(part, side, 1.1)), 1
  )
  bgr = cv2.cvtColor(row, cv2.COLOR_RGB2BGR)
  _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
  return base64.b64encode(data.tobytes()).decode()


def _sample_frames(take: EvalClip, count: int) -> EvalClip:
  return with_audio(take, take.wave[: count * SAMPLES_PER_FRAME])


def _mean(values) -> float:
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else float('nan')


def _to_json(value) -> float | None:
  """A number that JSON can hold; None where there is none."""
  return round(float(value), 6) if np.isfinite(value) else None
