"""Descriptions of videos and frames.

Shapes: h w rows and columns of Y; h2 w2 those of U and V, half as many.
"""

import dataclasses
from fractions import Fraction

import numpy as np
from jaxtyping import Integer

# ITU-T H.273 table 4: matrix coefficients -> (kr, kb).
LUMA_WEIGHTS = {
  1: (0.2126, 0.0722),  # BT.709
  4: (0.30, 0.11),  # FCC
  5: (0.299, 0.114),  # BT.601, 625 lines
  6: (0.299, 0.114),  # BT.601, 525 lines
  7: (0.212, 0.087),  # SMPTE 240M
  9: (0.2627, 0.0593),  # BT.2020
  10: (0.2627, 0.0593),  # BT.2020 constant luminance, treated as 9
}
UNSPECIFIED = 2
FULL_RANGE = 2
SQUARE_PIXEL = Fraction(1)
DEFAULT_TICK = Fraction(1, 90000)  # s, the time base of MPEG


@dataclasses.dataclass(frozen=True)
class Color:
  """Color encoding of a video; the integers are those of ITU-T H.273.

  Attributes:
    matrix: matrix coefficients as tagged, 2 where the file has no tag.
    range: 0 unknown, 1 limited (16..235), 2 full (0..255).
    primaries: color primaries as tagged.
    transfer: transfer characteristic as tagged.
    depth: bits of a code value, 8 or 10.
    assumed: matrix used for arithmetic where `matrix` has no known weights.
  """

  matrix: int = UNSPECIFIED
  range: int = 0
  primaries: int = UNSPECIFIED
  transfer: int = UNSPECIFIED
  depth: int = 8
  assumed: int = 1

  @property
  def weights(self) -> tuple[float, float]:
    """Share of red and of blue in luma: (kr, kb)."""
    return LUMA_WEIGHTS.get(self.matrix) or LUMA_WEIGHTS[self.assumed]

  @property
  def full(self) -> bool:
    """Whether black is 0 (full range); untagged video is limited range."""
    return self.range == FULL_RANGE


@dataclasses.dataclass(frozen=True)
class View:
  """Changes to every decoded frame: resize, then rotate, then crop.

  The order and meaning are Wav2Lip's flags (spec 7.1). Differs from Wav2Lip:
  sizes and crop corners are rounded down to even pixels, as 4:2:0 needs.

  Attributes:
    resize_factor: width and height are divided by it.
    rotate: turn by 90 degrees clockwise.
    crop: (top, bottom, left, right) pixels; -1 is the full extent.
    background: RGB in 0..255 under transparent pictures; None keeps alpha.
  """

  resize_factor: int = 1
  rotate: bool = False
  crop: tuple[int, int, int, int] = (0, -1, 0, -1)
  background: tuple[int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Video:
  """A video or photo as `video_reader.read_frames` will deliver it.

  Attributes:
    path: the file.
    width: of the delivered frames in pixels, even.
    height: likewise.
    rate: nominal frames per second, 1..240; 25 where nothing can be known.
    duration: seconds by the file's header, 0 if unknown or a photo.
    start: file time of the first frame in seconds; frame times count from it.
    pix_fmt: 'yuv420p' or 'yuv420p10le'.
    color: meaning of the code values.
    sar: shape of a pixel, width / height.
    still: whether the file has only one picture.
    tick: the file's time base in seconds.
    view: resize, rotate and crop, already counted in `width` and `height`.
    stored: size (w, h) to which pictures are scaled before they are turned.
    turn: (transpose, flip_y, flip_x) that shows the stored picture upright.
    stream: index of the stream in the file.
    by_pillow: whether Pillow reads the file, not PyAV.
    alpha: whether frames have an alpha plane.
    unread_alpha: whether the file has alpha in a stream that is not read.
    mastering: display of HDR mastering, as x264's option; '' if unknown.
    light: content light level in cd/m², 'maximum,average'; '' if unknown.
  """

  path: str
  width: int
  height: int
  rate: Fraction
  duration: Fraction
  start: Fraction
  pix_fmt: str
  color: Color
  sar: Fraction = SQUARE_PIXEL
  still: bool = False
  tick: Fraction = DEFAULT_TICK
  view: View = View()
  stored: tuple[int, int] = (0, 0)
  turn: tuple[bool, bool, bool] = (False, False, False)
  stream: int = 0
  by_pillow: bool = False
  alpha: bool = False
  unread_alpha: bool = False
  mastering: str = ''
  light: str = ''


@dataclasses.dataclass
class Frame:
  """One picture, with planes that may be read-only views of decoder memory.

  Attributes:
    index: place in presentation order, from 0.
    time: seconds after the video's first frame.
    planes: Y [h w], U and V [h/2 w/2], uint8, or uint16 in 10 bit.
    alpha: opacity as code values, 0 to 255 or 1023; None: opaque.
  """

  index: int
  time: Fraction
  planes: tuple[
    Integer[np.ndarray, 'h w'],
    Integer[np.ndarray, 'h2 w2'],
    Integer[np.ndarray, 'h2 w2'],
  ]
  alpha: Integer[np.ndarray, 'h w'] | None = None
