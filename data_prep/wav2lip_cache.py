"""Training clips from the output of Wav2Lip's preprocessing.

A folder `<id>/<clip>` has `audio.wav` and, for each frame k with a face, its
box without a margin as `<k>.jpg` (spec 5.2). The box is the crop; landmarks and
mesh are detected. The original videos give better clips, since these have no
margin for augmentation.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float, UInt8

from data_prep import extract
from data_prep import pictures as picture_files
from data_prep.extract import Piece, Rejection, Result, Settings
from data_prep.layouts import Job
from lipsync_jax.faces import mesh
from lipsync_jax.faces.landmarks import LANDMARK_IDS
from lipsync_jax.media.container import MediaError

BORDER = 0.2  # around the face for the landmarker, relative to its sides


def from_pictures(job: Job, detector, settings: Settings) -> Iterator[Result]:
  """The clips of a folder's longest run without a gap."""
  from etils import epath

  folder = epath.Path(job.path)
  files = {int(p.stem): p for p in folder.glob('*.jpg') if p.stem.isdecimal()}
  if not files:
    yield Rejection(job.key, extract.NO_FACE, 'no picture in the folder')
    return
  first, end = longest_run(sorted(files))
  pictures = [decode_jpeg(files[k].read_bytes()) for k in range(first, end)]
  if any(picture is None for picture in pictures):
    bad = next(i for i, picture in enumerate(pictures) if picture is None)
    yield Rejection(job.key, extract.BROKEN, f'{first + bad}.jpg is no picture')
    return
  meshes = find_meshes(pictures, detector)
  if meshes is None:
    yield Rejection(job.key, extract.NO_FACE, f'in {len(pictures)} pictures')
    return
  try:
    wave = extract.waveform(str(folder / 'audio.wav'), Fraction(0))
    problem = ''
  except MediaError as error:
    wave, problem = np.zeros(0, np.int16), str(error)
  sides = np.array([picture.shape[1::-1] for picture in pictures], np.float64)
  rows = np.concatenate([sides / 2, sides, 0 * sides[:, :1]], -1)
  points = meshes[:, list(LANDMARK_IDS), :2]
  shapes = mesh.align(meshes, mesh.reference_shape()).apply(meshes)
  runs = extract.split_run(first, end, settings.max_frames)
  for key, (a, b) in zip(
    extract.clip_keys(job.key, len(runs)), runs, strict=True
  ):
    here = slice(a - first, b - first)
    piece = Piece(a, rows[here], points[here], mesh.pack(shapes[here]))
    part = wave[extract.SAMPLES * a : extract.SAMPLES * b]
    entry = extract.check_piece(key, piece, part, problem, settings)
    if isinstance(entry, Rejection):
      yield entry
      continue
    _, piece, part = entry
    paths = [files[a + i] for i in range(len(piece.crops))]
    yield build_clip(job, key, piece, part, pictures[here], paths, settings)


def longest_run(numbers: list[int]) -> tuple[int, int]:
  """First and end of the longest run of consecutive numbers, ascending."""
  breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
  runs = np.split(np.array(numbers), breaks)
  best = max(runs, key=len)
  return int(best[0]), int(best[-1]) + 1


def decode_jpeg(data: bytes) -> UInt8[np.ndarray, 'h w 3'] | None:
  """The RGB picture of a JPEG; None if it cannot be decoded."""
  import cv2

  pixels = np.frombuffer(data, np.uint8)
  return cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB) if pixels.size else None


def find_meshes(pictures: list, detector) -> Float[np.ndarray, 'n q 3'] | None:
  """The mesh of every picture, pixels; interpolated where none is found."""
  import cv2

  points = np.full((len(pictures), mesh.NUM_POINTS, 3), np.nan)
  for i, picture in enumerate(pictures):
    x, y = (round(BORDER * side) for side in picture.shape[1::-1])
    wide = cv2.copyMakeBorder(picture, y, y, x, x, cv2.BORDER_REPLICATE)
    found = detector.landmarks(wide, (-x, -y))
    if found is not None:
      points[i] = found
  known = np.flatnonzero(np.isfinite(points[:, 0, 0]))
  if not known.size:
    return None
  flat = points.reshape(len(points), -1)
  steps = np.arange(len(points))
  lines = [np.interp(steps, known, column[known]) for column in flat.T]
  return np.stack(lines, -1).reshape(points.shape)


def build_clip(
  job, key, piece: Piece, wave, pictures, paths, settings: Settings
):
  """The clip of a piece; JPEGs of one size are copied unchanged."""
  import cv2

  sides = piece.crops[:, 2:4]
  size = np.ceil(sides.max(0)).astype(np.int64)
  size = np.round(
    size * picture_files.image_scale(size, settings.max_image_side)
  ).astype(int)
  if (sides == size).all():
    jpegs = [path.read_bytes() for path in paths]
  else:
    jpegs = [
      picture_files.encode_jpeg(
        cv2.resize(picture, size.tolist()), settings.quality
      )
      for picture, _ in zip(pictures, paths, strict=False)
    ]
  scale = size / sides  # [n 2]
  crops = np.tile([*size / 2, *size, 0.0], (len(sides), 1))
  places = np.concatenate([0 * sides, sides], -1)
  points = piece.points * scale[:, None]
  return extract.checked_clip(
    job, key, jpegs, crops, points, places, piece.mesh, wave
  )
