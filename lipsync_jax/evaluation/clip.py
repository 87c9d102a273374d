"""Eval clips: pictures of one speaking face with their sound.

An eval clip has 25 frames/s, and its sound begins with its first picture. Short
clips of a shard set are joined, speaker by speaker.

Shapes: n frames, s sound samples at 16 kHz, p landmarks.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int16, UInt8

from lipsync_jax.audio import FPS, HOP, SAMPLES_PER_FRAME
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.faces.crop import crop_from_row, extract_crop

Picture = UInt8[np.ndarray, '_ _ 3']


class EvalClipError(LipSyncError):
  """A clip that cannot be evaluated."""


@dataclasses.dataclass(frozen=True)
class EvalClip:
  """Pictures of a face with a margin, its crops, and its sound."""

  name: str
  speaker: str
  pictures: tuple[Picture, ...]  # RGB; sizes may differ between pieces
  crops: Float[np.ndarray, 'n 5']  # pixels of the picture, radians
  wave: Int16[np.ndarray, 's']  # SAMPLES_PER_FRAME a frame
  joints: tuple[int, ...] = ()  # first frame of every piece but the first
  late: float = 0.0  # seconds by which the video outlasts its sound

  def __len__(self) -> int:
    return len(self.pictures)


def with_audio(clip: EvalClip, wave: Int16[np.ndarray, 'w']) -> EvalClip:
  """The clip with another sound, cut to the shorter of both."""
  count = min(len(clip), len(wave) // SAMPLES_PER_FRAME)
  return dataclasses.replace(
    clip,
    pictures=clip.pictures[:count],
    crops=clip.crops[:count],
    wave=wave[: count * SAMPLES_PER_FRAME],
    joints=tuple(j for j in clip.joints if j < count),
  )


def with_delay(clip: EvalClip, frames: int) -> EvalClip:
  """The clip with its sound `frames` later (earlier if negative).

  Both ends are cut, so that no silence is inserted.
  """
  late, early = max(frames, 0), max(-frames, 0)
  count = len(clip) - late - early
  if count < 1:
    raise EvalClipError(
      f'{clip.name}: expected more than {abs(frames)} frames to shift its '
      f'sound by as many, found {len(clip)}; join more clips'
    )
  joints = tuple(j - late for j in clip.joints if late < j < late + count)
  return dataclasses.replace(
    clip,
    pictures=clip.pictures[late : late + count],
    crops=clip.crops[late : late + count],
    wave=clip.wave[early * SAMPLES_PER_FRAME :][: count * SAMPLES_PER_FRAME],
    joints=joints,
  )


def with_silence(clip: EvalClip) -> EvalClip:
  """The clip with digital silence as its sound."""
  return dataclasses.replace(clip, wave=np.zeros_like(clip.wave))


def content_hash(clip: EvalClip) -> str:
  """SHA-256 of pictures, crops and sound."""
  total = hashlib.sha256()
  for array in (*clip.pictures, clip.crops, clip.wave):
    total.update(str(array.shape).encode())
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  total.update(str(clip.joints).encode())
  return total.hexdigest()


def join_clips(clips: list[Clip]) -> EvalClip:
  """Clips of one speaker joined, each cut to whole frames."""
  import cv2

  pictures, crops, waves, joints = [], [], [], []
  for clip in clips:
    count = min(len(clip.frames), len(clip.wave) // SAMPLES_PER_FRAME)
    joints.append(len(pictures))
    for data in clip.frames[:count]:
      buffer = np.frombuffer(data, np.uint8)
      pictures.append(cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB))
    crops.append(clip.crops[:count].astype(np.float64))
    waves.append(clip.wave[: count * SAMPLES_PER_FRAME])
  return EvalClip(
    name='+'.join([clips[0].key, *(c.key.split('/')[1] for c in clips[1:])]),
    speaker=clips[0].speaker,
    pictures=tuple(pictures),
    crops=np.concatenate(crops),
    wave=np.concatenate(waves),
    joints=tuple(joints[1:]),
  )


def clip_groups(
  dataset: ClipDataset, min_seconds: float
) -> list[tuple[int, ...]]:
  """Indices of the clips to join for `min_seconds` each.

  A short remainder joins the speaker's last group. It is left out if there is
  none.
  """
  rows: dict[str, list[int]] = {}
  for i, name in enumerate(dataset.speakers):
    rows.setdefault(name, []).append(i)
  groups: list[tuple[int, ...]] = []
  whole = np.minimum(
    dataset.frames, (dataset.columns - 1) * HOP // SAMPLES_PER_FRAME
  )
  for members in rows.values():
    own: list[tuple[int, ...]] = []
    pending: list[int] = []
    for i in sorted(members, key=lambda i: dataset.keys[i]):
      pending.append(i)
      if whole[pending].sum() >= min_seconds * FPS:
        own.append(tuple(pending))
        pending = []
    if pending and own:
      own[-1] = (*own[-1], *pending)
    groups += own
  if not groups:
    raise EvalClipError(
      f'{dataset.folder}: expected a speaker with {min_seconds:g} s of clips '
      f'in split {dataset.split}, found none; lower --min-seconds'
    )
  return groups


def valid_windows(clip: EvalClip, frames: int = 5) -> np.ndarray:
  """Mask of the windows of `frames` frames within one piece, [v]."""
  count = max(len(clip) - frames + 1, 0)
  good = np.ones(count, bool)
  for joint in clip.joints:
    good[max(joint - frames + 1, 0) : joint] = False
  return good


def piece_ranges(clip: EvalClip) -> Iterator[slice]:
  """The frame ranges of all pieces."""
  edges = [0, *clip.joints, len(clip)]
  for first, end in itertools.pairwise(edges):
    yield slice(first, end)


def face_crops(clip: EvalClip, size: int, scale: float = 1.0) -> np.ndarray:
  """Face crops, uint8 [n size size 3].

  Args:
    clip: pictures and crops.
    size: pixels of the output's side.
    scale: of the crop's width and height.
  """
  out = np.empty((len(clip), size, size, 3), np.uint8)
  for i, picture in enumerate(clip.pictures):
    crop = crop_from_row(clip.crops[i])
    crop = dataclasses.replace(crop, w=crop.w * scale, h=crop.h * scale)
    out[i] = extract_crop(picture, crop, size)
  return out
