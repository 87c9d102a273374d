"""Preprocessed: clips from the cache of Wav2Lip's preprocessing.

A folder `<id>/<clip>` holds `<k>.jpg`, the face box of frame k without any
margin, for the frames in which a face was found, and `audio.wav` (spec 5.2).
The box that was cut there stays the crop; only landmarks are read anew.
Better results need the videos: there is no margin for augmentation here.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float, UInt8

from data_prep import extract
from data_prep.extract import Piece, Rejection, Result, Settings
from data_prep.layouts import Job
from lipsync_jax.faces.landmarks import LANDMARK_IDS
from lipsync_jax.media.container import MediaError

AROUND = 0.2  # of the sides: what the landmarker wants to see round a face


def from_pictures(job: Job, finder, settings: Settings) -> Iterator[Result]:
  """The clips of one folder: its longest run without a gap."""
  from etils import epath

  folder = epath.Path(job.path)
  files = {int(p.stem): p for p in folder.glob('*.jpg') if p.stem.isdecimal()}
  if not files:
    yield Rejection(job.key, extract.NO_FACE, 'no picture in the folder')
    return
  first, end = longest_run(sorted(files))
  pictures = [decoded(files[k].read_bytes()) for k in range(first, end)]
  if any(picture is None for picture in pictures):
    bad = next(i for i, picture in enumerate(pictures) if picture is None)
    yield Rejection(job.key, extract.BROKEN, f'{first + bad}.jpg is no picture')
    return
  points = landmarks(pictures, finder)
  if points is None:
    yield Rejection(job.key, extract.NO_FACE, f'in {len(pictures)} pictures')
    return
  try:
    wave = extract.waveform(str(folder / 'audio.wav'), Fraction(0))
    problem = ''
  except MediaError as error:
    wave, problem = np.zeros(0, np.int16), str(error)
  sides = np.array([picture.shape[1::-1] for picture in pictures], np.float64)
  rows = np.concatenate([sides / 2, sides, 0 * sides[:, :1]], -1)
  runs = extract.split(first, end, settings.longest)
  for key, (a, b) in zip(extract.names(job.key, len(runs)), runs, strict=True):
    here = slice(a - first, b - first)
    piece = Piece(a, rows[here], points[here])
    sounding = wave[extract.SAMPLES * a : extract.SAMPLES * b]
    entry = extract.judged(key, piece, sounding, problem, settings)
    if isinstance(entry, Rejection):
      yield entry
      continue
    _, piece, sounding = entry
    paths = [files[a + i] for i in range(len(piece.crops))]
    yield packed(job, key, piece, sounding, pictures[here], paths, settings)


def longest_run(numbers: list[int]) -> tuple[int, int]:
  """First and end of the longest run of consecutive numbers, ascending."""
  breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
  runs = np.split(np.array(numbers), breaks)
  best = max(runs, key=len)
  return int(best[0]), int(best[-1]) + 1


def decoded(data: bytes) -> UInt8[np.ndarray, 'h w 3'] | None:
  """A JPEG's picture, None if it has none."""
  import cv2

  pixels = np.frombuffer(data, np.uint8)
  return cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB) if pixels.size else None


def landmarks(pictures: list, finder) -> Float[np.ndarray, 'n p 2'] | None:
  """Landmarks in every picture, those not found by lines between the others."""
  import cv2

  points = np.full((len(pictures), len(LANDMARK_IDS), 2), np.nan)
  for i, picture in enumerate(pictures):
    x, y = (round(AROUND * side) for side in picture.shape[1::-1])
    wide = cv2.copyMakeBorder(picture, y, y, x, x, cv2.BORDER_REPLICATE)
    mesh = finder.landmarks(wide, (-x, -y))
    if mesh is not None:
      points[i] = mesh[list(LANDMARK_IDS), :2]
  known = np.flatnonzero(np.isfinite(points[:, 0, 0]))
  if not known.size:
    return None
  flat = points.reshape(len(points), -1)
  steps = np.arange(len(points))
  lines = [np.interp(steps, known, column[known]) for column in flat.T]
  return np.stack(lines, -1).reshape(points.shape)


def packed(job, key, piece: Piece, wave, pictures, paths, settings: Settings):
  """A piece as a record: pictures of one size, untouched if they were."""
  import cv2

  sides = piece.crops[:, 2:4]
  size = np.ceil(sides.max(0)).astype(np.int64)
  size = np.round(size * extract.shrunk(size, settings.largest)).astype(int)
  if (sides == size).all():
    jpegs = [path.read_bytes() for path in paths]
  else:
    jpegs = [
      extract.jpeg(cv2.resize(picture, size.tolist()), settings)
      for picture, _ in zip(pictures, paths, strict=False)
    ]
  scale = size / sides  # [n 2]
  crops = np.tile([*size / 2, *size, 0.0], (len(sides), 1))
  places = np.concatenate([0 * sides, sides], -1)
  points = piece.points * scale[:, None]
  return extract.finished(job, key, jpegs, crops, points, places, wave)
