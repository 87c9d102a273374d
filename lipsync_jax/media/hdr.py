"""HDR metadata (SMPTE ST 2086, CTA-861.3) in the syntax of x264."""

import struct

# AVMasteringDisplayMetadata: primaries and white point as 4 pairs of
# fractions, then the least and the most luminance, then two flags.
DISPLAY = struct.Struct('=20i2i')
LIGHT = struct.Struct('=2I')  # AVContentLightMetadata
CHROMATICITY_UNIT, LUMINANCE_UNIT = 50_000, 10_000


def mastering_display(data: bytes) -> str:
  """x264's `mastering-display` from FFmpeg's struct; '' if it is incomplete."""
  if len(data) < DISPLAY.size:
    return ''
  *numbers, has_primaries, has_luminance = DISPLAY.unpack_from(data)
  pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
  if not (has_primaries and has_luminance and all(d for _, d in pairs)):
    return ''
  points = [round(CHROMATICITY_UNIT * n / d) for n, d in pairs[:8]]
  least, most = (round(LUMINANCE_UNIT * n / d) for n, d in pairs[8:])
  red, green, blue, white = (points[i : i + 2] for i in (0, 2, 4, 6))
  names = zip(['G', 'B', 'R', 'WP'], (green, blue, red, white), strict=True)
  colors = ''.join(f'{name}({x},{y})' for name, (x, y) in names)
  return f'{colors}L({most},{least})'


def content_light(data: bytes) -> str:
  """x264's `cll` from FFmpeg's struct: maximum and average in cd/m²."""
  if len(data) < LIGHT.size:
    return ''
  most, average = LIGHT.unpack_from(data)
  return f'{most},{average}'
