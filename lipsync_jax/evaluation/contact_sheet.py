"""Contact sheets: frames of several videos side by side.

    python -m lipsync_jax.evaluation.contact_sheet sheet.jpg source.mp4 a.mp4 \\
        generated.mp4 --at 0.5 1.2 2.0 --box 300 400 200 160

Every row is a video, every column a time. People judge mouths on such sheets.
Strips are the rows of the report's sheets, as JPEG in base64.

Shapes: n frames.
"""

import argparse
import base64
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from lipsync_jax.common import cli
from lipsync_jax.evaluation.clip import EvalClip, EvalClipError, face_crops
from lipsync_jax.faces import crop, landmarks
from lipsync_jax.media import decoder, yuv

DEFAULT_COLUMNS = 8
FACES = (8, 128)  # pictures of a strip, pixels of each
MOUTHS = 12  # pictures of a strip of mouths
MOUTH_SIZE = (100, 76)  # pixels of each
MOUTH_SCALE = 1.7  # width of a picture, relative to the lips' usual width
QUALITY, MOUTH_QUALITY = 82, 90  # of the JPEGs


def frames_at(
  path: str, times: Sequence[float], box: Sequence[int] | None = None
) -> list[UInt8[np.ndarray, 'h w 3']]:
  """The RGB frames of a video shown at `times`.

  Args:
    path: video or photo.
    times: seconds, ascending.
    box: x, y, width, height of the part to take, in pixels.

  Raises:
    EvalClipError: the video ends before a time.
  """
  video = decoder.probe_video(path)
  area = (0, 0, video.width, video.height)
  if box:
    area = (box[0], box[1], box[0] + box[2], box[1] + box[3])
  pictures: list = []
  for frame in decoder.read_frames(video):
    end = frame.time + 1 / video.rate
    while len(pictures) < len(times) and (
      video.still or times[len(pictures)] + 1e-6 < end
    ):
      pictures.append(yuv.to_rgb(video, frame, area))
    if len(pictures) == len(times):
      return pictures
  raise EvalClipError(
    f'{path}: expected a frame at {times[len(pictures)]:g} s, found the end; '
    'choose earlier times'
  )


def contact_sheet(
  paths: Sequence[str],
  times: Sequence[float],
  box: Sequence[int] | None = None,
  height: int = 160,
) -> UInt8[np.ndarray, 'h w 3']:
  """A sheet with a row for each video and a column for each time.

  Args:
    paths: videos, the source first.
    times: seconds, ascending.
    box: as for `frames_at`, in pixels of the first video; scaled for others.
    height: pixels of a row.
  """
  import cv2

  first = decoder.probe_video(paths[0])
  rows = []
  for path in paths:
    video = decoder.probe_video(path)
    scale = np.array([video.width / first.width, video.height / first.height])
    area = None
    if box:
      area = np.rint(np.array(box) * [*scale, *scale]).astype(int).tolist()
    pictures = [
      cv2.resize(
        picture,
        (round(height * picture.shape[1] / picture.shape[0]), height),
        interpolation=cv2.INTER_AREA
        if picture.shape[0] > height
        else cv2.INTER_CUBIC,
      )
      for picture in frames_at(path, times, area)
    ]
    rows.append(np.hstack(pictures))
  width = min(row.shape[1] for row in rows)
  return np.vstack([row[:, :width] for row in rows])


def contact_strip(clip: EvalClip) -> str:
  """Some faces of a clip side by side."""
  count, side = FACES
  chosen = _even_frames(len(clip), count)
  part = dataclasses.replace(
    clip,
    pictures=tuple(clip.pictures[i] for i in chosen),
    crops=clip.crops[chosen],
  )
  row = np.concatenate(list(face_crops(part, side, 1.1)), 1)
  return _encode(row, QUALITY)


def mouth_strip(
  clip: EvalClip, source: EvalClip, points: Float[np.ndarray, 'n 89 2']
) -> str:
  """Mouths of a clip side by side, all of one size; '' without lips.

  Strips of several versions of a source show the same places.

  Args:
    clip: the source, or a clip generated from it.
    source: its ground truth.
    points: landmarks of the ground truth.
  """
  count = min(len(clip), len(source))
  lips = points[:count, landmarks.OUTER_LIPS]
  known = np.flatnonzero(np.isfinite(lips).all((1, 2)))
  if not known.size:
    return ''
  width = MOUTH_SCALE * np.median(np.ptp(lips[known, :, 0], axis=1))
  pictures = []
  for i in _even_frames(count, MOUTHS):
    nearest = known[np.abs(known - i).argmin()]
    scale = clip.crops[i, 2] / source.crops[i, 2]
    center, w = lips[nearest].mean(0) * scale, width * scale
    h = w * MOUTH_SIZE[1] / MOUTH_SIZE[0]
    box = crop.Crop(center[0], center[1], w, h, 0.0)
    pictures.append(_resample(clip.pictures[i], box))
  return _encode(np.concatenate(pictures, 1), MOUTH_QUALITY)


def _even_frames(total: int, count: int) -> list[int]:
  return np.linspace(0, total - 1, count).round().astype(int).tolist()


def _resample(picture, box: crop.Crop) -> UInt8[np.ndarray, 'h w 3']:
  """A part of the picture at MOUTH_SIZE."""
  import cv2

  w, h = MOUTH_SIZE
  matrix = np.array(
    [
      [w / box.w, 0, w / 2 - box.cx * w / box.w],
      [0, h / box.h, h / 2 - box.cy * h / box.h],
    ]
  )
  way = cv2.INTER_CUBIC if w >= box.w else cv2.INTER_AREA
  return cv2.warpAffine(
    picture, matrix, MOUTH_SIZE, flags=way, borderMode=cv2.BORDER_REPLICATE
  )


def _encode(row: UInt8[np.ndarray, 'h w 3'], quality: int) -> str:
  import cv2

  bgr = cv2.cvtColor(row, cv2.COLOR_RGB2BGR)
  _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
  return base64.b64encode(data.tobytes()).decode()


def write_sheet(args: argparse.Namespace) -> str:
  """Write the sheet of a command line; returns its path."""
  import cv2

  times = args.at
  if not times:
    length = float(decoder.probe_video(args.videos[0]).duration or 1)
    times = ((np.arange(args.columns) + 0.5) * length / args.columns).tolist()
  sheet = contact_sheet(args.videos, sorted(times), args.box, args.height)
  if not cv2.imwrite(args.out, sheet[..., ::-1]):
    raise OSError(f'{args.out}: cannot be written; choose another path')
  return args.out


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  add = parser.add_argument
  add('out', help='.jpg or .png to write')
  add('videos', nargs='+', metavar='VIDEO')
  add('--at', nargs='+', type=float, metavar='SECONDS')
  add('--columns', type=int, default=DEFAULT_COLUMNS, help='without --at (8)')
  add('--box', nargs=4, type=int, metavar=('X', 'Y', 'W', 'H'))
  add('--height', type=int, default=160, help='pixels of a row (160)')
  args = parser.parse_args(argv)
  return cli.run_command(lambda: write_sheet(args))


if __name__ == '__main__':
  sys.exit(main())
