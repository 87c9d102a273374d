"""All metrics of one eval clip, as plain numbers.

`metric_list.METRICS` describes each one; the report prints the descriptions.

Shapes: n frames, s shifts.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from lipsync_jax.evaluation import (
  image_metrics,
  landmarks,
  lip_motion,
  ridge_scorer,
  sync_metrics,
)
from lipsync_jax.evaluation.clip import (
  SAMPLES_PER_FRAME,
  EvalClip,
  face_crops,
  piece_ranges,
  with_audio,
)
from lipsync_jax.evaluation.image_metrics import MouthColors
from lipsync_jax.evaluation.landmarks import LipReading
from lipsync_jax.evaluation.metric_list import METRICS, Metric
from lipsync_jax.evaluation.ridge_scorer import RidgeScorer
from lipsync_jax.evaluation.sync_metrics import SyncNetScorer
from lipsync_jax.faces import crop
from lipsync_jax.faces.detector import FaceDetector

__all__ = ['METRICS', 'Metric', 'Scorers', 'Source', 'compute_metrics']

SIDE = 256  # pixels of the squares that are compared
GROWN = 1.25  # scale of the crop, so that it includes the border


@dataclasses.dataclass(frozen=True)
class Scorers:
  """What the metrics need; None leaves out the metrics of a scorer."""

  detector: FaceDetector
  ridge: RidgeScorer
  syncnet: SyncNetScorer | None = None
  syncnet_v2: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Source:
  """The ground truth of a case, measured once for all its systems."""

  clip: EvalClip
  lips: LipReading
  colors: MouthColors
  deviation: float  # of the lip opening while it speaks, canonical units


def read_source(clip: EvalClip, detector: FaceDetector) -> Source:
  """Measure the ground truth."""
  lips = landmarks.read_lips(clip, detector)
  speech = lip_motion.speech_frames(clip.wave, len(clip))
  return Source(
    clip,
    lips,
    clip_colors(clip, lips),
    lip_motion.opening_deviation(lips.opening, speech),
  )


def clip_colors(clip: EvalClip, lips: LipReading) -> MouthColors:
  """The colors of a clip's mouth."""
  widths = clip.crops[:, 2]
  return image_metrics.mouth_colors(clip.pictures, lips.points, widths)


def compute_metrics(
  generated: EvalClip,
  scorers: Scorers,
  source: Source,
  *,
  lips: LipReading | None = None,
  has_speech: bool = True,
  same_words: bool = True,
  closures: Bool[np.ndarray, 'n'] | None = None,
) -> dict:
  """All metrics of a clip.

  Args:
    generated: the clip.
    scorers: loaded.
    source: of the clip.
    lips: its landmarks, if the pictures are the source's; such a clip is not
      compared with the source.
    has_speech: False for a silent sound: no sync metrics.
    same_words: False if the ground truth speaks other words.
    closures: where the speech closes the lips, if known.

  Returns:
    'values' by the keys of METRICS; 'curves' by judge, lse and ridge, each a
    list over the shifts; 'frames'.
  """
  is_source = lips is not None
  if lips is None:
    lips = landmarks.read_lips(generated, scorers.detector)
  points = lips.points
  width, parts = generated.crops[:, 2], list(piece_ranges(generated))
  values = {'late': generated.late}
  curves: dict[str, list] = {}
  if has_speech:
    _add_sync_metrics(generated, points, scorers, values, curves)
  values['motion'] = image_metrics.mouth_motion(points, width, parts)
  values['jitter'] = image_metrics.landmark_jitter(points, width, parts)
  values |= articulation_metrics(generated, lips, source, closures)
  if is_source:
    part = source.colors.interior[: len(generated)]
    values['flicker'] = image_metrics.color_flicker(part, parts)
  else:
    count = min(len(generated), len(source.clip))
    values |= compare_to_truth(
      _first_frames(generated, count),
      _first_frames(source.clip, count),
      points[:count],
      source.lips.points[:count],
      same_words,
    )
    values |= color_metrics(generated, lips, source)
    deviation = values.get('lip_deviation', np.nan) / 100
    values['amplitude'] = lip_motion.amplitude_ratio(
      deviation, source.deviation
    )
  return {
    'values': {k: _to_json(v) for k, v in values.items()},
    'curves': {k: [_to_json(v) for v in c] for k, c in curves.items()},
    'frames': len(generated),
  }


def articulation_metrics(
  generated: EvalClip,
  lips: LipReading,
  source: Source,
  closures: Bool[np.ndarray, 'n'] | None,
) -> dict[str, float]:
  """Amplitude, closures and rest of the lips under the clip's sound."""
  speech = lip_motion.speech_frames(generated.wave, len(generated))
  if not speech.any():
    everywhere = np.ones(len(generated), bool)
    deviation = lip_motion.opening_deviation(lips.opening, everywhere)
    ratio = lip_motion.amplitude_ratio(deviation, source.deviation)
    return {'silence_ratio': ratio}
  deviation = lip_motion.opening_deviation(lips.opening, speech)
  values = {
    'lip_deviation': 100 * deviation,
    'silence_ratio': lip_motion.silence_ratio(lips.opening, speech),
  }
  if closures is not None:
    count = min(len(closures), len(generated))
    found = lip_motion.closure_frames(lips.opening, speech)
    recall, precision = lip_motion.closure_scores(
      found[:count], closures[:count]
    )
    values['closure_recall'] = 100 * recall
    values['closure_precision'] = 100 * precision
  return values


def color_metrics(
  generated: EvalClip, lips: LipReading, source: Source
) -> dict[str, float]:
  """Colors of lips and skin, and flicker, against the source."""
  found, true = clip_colors(generated, lips), source.colors
  parts = list(piece_ranges(generated))
  count = min(len(generated), len(source.clip))
  flicker = image_metrics.color_flicker(found.interior, parts)
  usual = image_metrics.color_flicker(true.interior[:count], parts)
  return {
    'lip_color': image_metrics.color_distance(found.lips, true.lips[:count]),
    'skin_color': image_metrics.color_distance(found.skin, true.skin[:count]),
    'flicker': flicker,
    'flicker_ratio': flicker / usual if usual > 0 else float('nan'),
  }


def _add_sync_metrics(
  generated: EvalClip, points, scorers: Scorers, values, curves
) -> None:
  """Add the metrics that compare lips with the sound."""
  if scorers.syncnet is not None:
    table = sync_metrics.window_distances(generated, scorers.syncnet)
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
  values |= ridge_values(curve)


def ridge_values(curve: Float[np.ndarray, 's']) -> dict[str, float]:
  """Ridge metrics of `ridge_scorer.correlation_curve`."""
  offset = ridge_scorer.best_offset(curve)
  near = 100.0 * (abs(offset) <= 1)
  return {
    'ridge_r': curve[ridge_scorer.MAX_SHIFT],
    'ridge_offset': offset,
    # Without any correlation the best offset is meaningless.
    'ridge_near': near if np.isfinite(curve).any() else float('nan'),
  }


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


def _first_frames(clip: EvalClip, count: int) -> EvalClip:
  return with_audio(clip, clip.wave[: count * SAMPLES_PER_FRAME])


def _mean(values) -> float:
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else float('nan')


def _to_json(value) -> float | None:
  """The number rounded for JSON; None for NaN or infinity."""
  return round(float(value), 6) if np.isfinite(value) else None
