"""The metrics of a report: names, units and meanings.

`metrics.compute_metrics` computes them.
"""

import dataclasses

GROUPS = ('sync', 'articulation', 'picture')  # the tables of a report


@dataclasses.dataclass(frozen=True)
class Metric:
  """One column of the report."""

  key: str
  title: str
  unit: str
  better: str  # low | high | truth (as the ground truth's) | zero | one
  meaning: str  # for the reader

  @property
  def group(self) -> str:
    """The table of the metric, one of GROUPS."""
    if self.key.startswith(('judge', 'lse', 'ridge')):
      return 'sync'
    return 'articulation' if self.key in ARTICULATION else 'picture'


ARTICULATION = (
  'motion',
  'lip_deviation',
  'amplitude',
  'closure_recall',
  'closure_precision',
  'silence_ratio',
)
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
    ('ridge_near', 'Ridge in step', '% of clips', 'high',
     'Clips with a ridge offset of at most one frame'),
    ('psnr', 'PSNR', 'dB', 'high',
     'Of the face against the ground truth; 100: equal'),
    ('ssim', 'SSIM', '', 'high', 'Of the face against the ground truth'),
    ('lips', 'Lip landmarks', '% of face', 'low',
     'Mean distance of 40 lip landmarks from the ground truth'),
    ('opening_error', 'Opening error', '% of face', 'low',
     'Mean difference of the inner lips\' gap from the ground truth'),
    ('sharpness', 'Sharpness', '× truth', 'one',
     'Gradient energy of the mouth relative to the ground truth\'s'),
    ('lip_color', 'Lip color', 'ΔE', 'low',
     'Distance of the mean color of the lips from the ground truth\'s, in Lab; '
     '2 is just visible'),
    ('skin_color', 'Skin color', 'ΔE', 'low',
     'The same of the skin around the lips'),
    ('flicker', 'Flicker', 'ΔE', 'truth',
     'Second difference in time of the mean color inside the open mouth'),
    ('flicker_ratio', 'Flicker ratio', '× truth', 'one',
     'Flicker relative to the ground truth\'s, clip by clip'),
    ('motion', 'Mouth motion', '% of face', 'truth',
     'Standard deviation of the inner lips\' gap over time; under silence '
     'it is leakage and should be near 0'),
    ('lip_deviation', 'Lip amplitude', '% of eyes', 'truth',
     'Standard deviation of the lip opening while the sound speaks, relative '
     'to the distance of the outer eye corners'),
    ('amplitude', 'Amplitude ratio', '× source', 'one',
     'Lip amplitude relative to the source\'s own while it speaks'),
    ('closure_recall', 'Closures: recall', '%', 'high',
     'Frames with a closure in the speech where the lips touch, to a frame'),
    ('closure_precision', 'Closures: precision', '%', 'high',
     'Frames with touching lips where the speech has a closure, to a frame'),
    ('silence_ratio', 'Silence ratio', '× speech', 'zero',
     'Lip amplitude in pauses relative to that in speech; under silence '
     'relative to the source\'s in speech'),
    ('jitter', 'Jitter', '% of face', 'truth',
     'Jitter of mouth and chin relative to the face; the ground truth\'s is '
     'the noise of the landmarks'),
    ('border', 'Border step', 'levels', 'low',
     'Visibility of the edge of the changed region, of 255 levels'),
    ('late', 'Duration error', 's', 'zero',
     'By how much the video is longer than its sound'),
  )
)  # fmt: skip
