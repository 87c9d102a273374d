"""Takes: stretches of one speaking face, as evaluation looks at them.

A take is at 25 frames/s with sound that begins with its first picture.
Clips of a shard set that are shorter than wanted are joined, those of one
speaker one after another.

Alphabet: `n` frames, `s` sound samples at 16 kHz, `p` landmarks.
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
  """Nothing to evaluate; one line says why."""


@dataclasses.dataclass(frozen=True)
class EvalClip:
  """Pictures of a face with a margin, where it is in them, and its sound."""

  name: str
  speaker: str
  pictures: tuple[Picture, ...]  # RGB; sizes may differ between pieces
  crops: Float[np.ndarray, 'n 5']  # pixels of the picture, radians
  wave: Int16[np.ndarray, 's']  # SAMPLES_PER_FRAME a frame
  joints: tuple[int, ...] = ()  # first frame of every piece but the first
  late: float = 0.0  # seconds by which the video outlasts its sound

  def __len__(self) -> int:
    return len(self.pictures)


def with_audio(take: EvalClip, wave: Int16[np.ndarray, 'w']) -> EvalClip:
  """The same pictures with other sound, both as long as the shorter."""
  count = min(len(take), len(wave) // SAMPLES_PER_FRAME)
  return dataclasses.replace(
    take,
    pictures=take.pictures[:count],
    crops=take.crops[:count],
    wave=wave[: count * SAMPLES_PER_FRAME],
    joints=tuple(j for j in take.joints if j < count),
  )


def with_delay(take: EvalClip, frames: int) -> EvalClip:
  """The take with its sound late by so many frames (early if negative).

  No silence comes in: both ends lose what has no partner any more.
  """
  late, early = max(frames, 0), max(-frames, 0)
  count = len(take) - late - early
  if count < 1:
    raise EvalClipError(
      f'{take.name}: expected more than {abs(frames)} frames to shift its '
      f'sound by as many, found {len(take)}; join more clips'
    )
  joints = tuple(j - late for j in take.joints if late < j < late + count)
  return dataclasses.replace(
    take,
    pictures=take.pictures[late : late + count],
    crops=take.crops[late : late + count],
    wave=take.wave[early * SAMPLES_PER_FRAME :][: count * SAMPLES_PER_FRAME],
    joints=joints,
  )


def with_silence(take: EvalClip) -> EvalClip:
  """The take with digital silence for sound."""
  return dataclasses.replace(take, wave=np.zeros_like(take.wave))


def content_hash(take: EvalClip) -> str:
  """SHA-256 of all that is seen and heard."""
  total = hashlib.sha256()
  for array in (*take.pictures, take.crops, take.wave):
    total.update(str(array.shape).encode())
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  total.update(str(take.joints).encode())
  return total.hexdigest()


def join_clips(clips: list[Clip]) -> EvalClip:
  """Clips of one speaker as one take, each cut to its whole frames."""
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


def clip_groups(source: ClipDataset, least: float) -> list[tuple[int, ...]]:
  """Numbers of the clips to join so that takes last `least` seconds.

  A remainder that stays too short joins the take before it, or is left out
  where its speaker has no other.
  """
  rows: dict[str, list[int]] = {}
  for i, name in enumerate(source.speakers):
    rows.setdefault(name, []).append(i)
  found: list[tuple[int, ...]] = []
  whole = np.minimum(
    source.frames, (source.columns - 1) * HOP // SAMPLES_PER_FRAME
  )
  for members in rows.values():
    own: list[tuple[int, ...]] = []
    held: list[int] = []
    for i in sorted(members, key=lambda i: source.keys[i]):
      held.append(i)
      if whole[held].sum() >= least * FPS:
        own.append(tuple(held))
        held = []
    if held and own:
      own[-1] = (*own[-1], *held)
    found += own
  if not found:
    raise EvalClipError(
      f'{source.folder}: expected a speaker with {least:g} s of clips in '
      f'split {source.split}, found none; lower --least'
    )
  return found


def valid_windows(take: EvalClip, frames: int = 5) -> np.ndarray:
  """True for the windows of `frames` frames that no joint runs through."""
  count = max(len(take) - frames + 1, 0)
  good = np.ones(count, bool)
  for joint in take.joints:
    good[max(joint - frames + 1, 0) : joint] = False
  return good


def piece_ranges(take: EvalClip) -> Iterator[slice]:
  """The frames of every piece."""
  edges = [0, *take.joints, len(take)]
  for first, end in itertools.pairwise(edges):
    yield slice(first, end)


def face_crops(take: EvalClip, size: int, grown: float = 1.0) -> np.ndarray:
  """Faces as the networks see them.  uint8 [n size size 3]"""
  out = np.empty((len(take), size, size, 3), np.uint8)
  for i, picture in enumerate(take.pictures):
    crop = crop_from_row(take.crops[i])
    crop = dataclasses.replace(crop, w=crop.w * grown, h=crop.h * grown)
    out[i] = extract_crop(picture, crop, size)
  return out
