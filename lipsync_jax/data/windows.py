"""Windows: which five frames and which mel columns make a training example.

A plan knows every window a split can give; `sample_windows` turns items of it and a
random generator into a few integers each, the picks. Streaming and the
device-resident mode read the same picks, so they give the same batches.
Source: spec section 5.4 of Wav2Lip.

Alphabet: `c` usable clips, `k` windows of a contrastive example, `b` batch.
A window is five consecutive frames, named by its first; 25 frames/s.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Bool, Int

from lipsync_jax import audio
from lipsync_jax.audio import FPS, FRAMES_PER_WINDOW
from lipsync_jax.common.errors import LipSyncError

NUM_UNIFORMS = 14  # uniform numbers a pick carries for the augmentation
KINDS = ('syncnet', 'contrastive', 'generator', 'pair')
PAIR_CANDIDATES = (
  12  # pairs of moments, of which `select_most_different` keeps one
)
SAMPLING_ORDERS = ('clip', 'window', 'speaker')
WindowSample = dict[str, np.ndarray]
Rows = Int[np.ndarray, 'b']


class WindowError(LipSyncError):
  """No window to train on; one line says why."""


def arange_along_last(count: int, rank: int) -> Int[np.ndarray, '...']:
  """0, 1, … along the last of `rank` axes, the others of length 1."""
  return np.arange(count, dtype=np.int32).reshape((1,) * (rank - 1) + (-1,))


def speaker_fold_mask(
  speakers: Sequence[str], number: int, parts: int
) -> Bool[np.ndarray, 'n']:
  """True for the clips of the speakers of one part, chosen by their hash.

  So that two networks can be taught by different people: the expert that
  teaches a generator, and the judge of what it learned.
  """
  if not 0 <= number < parts:
    raise WindowError(f'expected 0 <= part < parts, found {number} of {parts}')
  found = [
    int.from_bytes(hashlib.sha256(s.encode()).digest()[:8], 'big') % parts
    for s in speakers
  ]
  return np.array(found) == number


@dataclasses.dataclass(frozen=True)
class WindowIndex:
  """All windows that a split offers for one kind of training."""

  kind: str  # of KINDS
  order: str  # of ORDERS
  clips: Int[np.ndarray, 'c']  # number of each usable clip in its source
  first: int  # frame at which the first window of any clip starts
  starts: Int[np.ndarray, 'c']  # windows of each clip, from `first` on
  spans: Int[np.ndarray, 'c']  # windows of each clip by frames alone
  speakers: tuple[Int[np.ndarray, '_'], ...]  # positions in `clips`, by speaker
  apart: int  # frames
  most: int | None  # frames
  elsewhere: float  # [0, 1]
  group: int  # k

  def __len__(self) -> int:
    """Items of one epoch."""
    return int(self.ends[-1]) if self.order == 'window' else len(self.clips)

  @functools.cached_property
  def ends(self) -> Int[np.ndarray, 'c']:
    """Running count of the windows of all clips."""
    return np.cumsum(self.starts)


def index_windows(
  frames: Int[np.ndarray, 'n'],
  mel_columns: Int[np.ndarray, 'n'],
  speakers: Sequence[str],
  kind: str,
  *,
  order: str = 'clip',
  apart: int | None = None,
  most: int | None = None,
  elsewhere: float = 0.0,
  group: int = 4,
  lead: Fraction = audio.CENTERED_LEAD,
  edges: bool = False,
  keep: Bool[np.ndarray, 'n'] | None = None,
) -> WindowIndex:
  """Find the windows of all clips.

  Args:
    frames, mel_columns, speakers: of every clip (`clip.ClipDataset`).
    kind: 'syncnet' pairs sound with the faces it belongs to or with wrong
      ones, 'contrastive' takes `group` windows of one clip, 'generator' a
      target and a reference from another moment, 'pair' two moments of a
      clip and a reference for each (`select_most_different`).
    order: an epoch is every clip once ('clip', as Wav2Lip draws), every
      window once ('window'), or as many draws as clips with all speakers
      equally often ('speaker').
    apart: least distance in frames between a window and the wrong or the
      reference one. 3 for syncnet, since clips may be out of sync by 2, and
      for contrastive; 5 for the others, so that target and reference share
      no frame. Differs from Wav2Lip: 1 there, so the reference could hold
      four of the five answers (spec 9.1).
    most: greatest such distance; None leaves it free.
    elsewhere: share of wrong windows that come from another clip.
    group: windows of a contrastive example.
    lead: see `audio.CENTERED_LEAD`.
    edges: also take windows whose sound is padded with silence.
    keep: False for clips to leave out, by offset or confidence perhaps.

  Raises:
    WindowError: no clip is long enough, or an argument is unknown.
  """
  if kind not in KINDS or order not in SAMPLING_ORDERS:
    raise WindowError(
      f'expected a kind of {KINDS} and an order of {SAMPLING_ORDERS}, found {kind!r} '
      f'and {order!r}'
    )
  drawn = kind in ('generator', 'pair')
  apart = (5 if drawn else 3) if apart is None else apart
  if apart < 1 or (most is not None and most < apart):
    raise WindowError(
      f'expected 1 <= apart <= most, found {apart} and {most} frames'
    )
  spans = frames - FRAMES_PER_WINDOW + 1
  # The mel windows that must lie inside the sound: the one that the five
  # frames share, and for the generator those of its first and last frame.
  first, ends = 0, spans
  if not edges:
    ends = np.minimum(ends, _last_frame_inside(mel_columns, Fraction(0)) + 1)
  if not edges and drawn:
    first = max(0, -int(-FPS * lead // 1))
    ends = np.minimum(
      ends,
      _last_frame_inside(mel_columns, lead) + 2 - FRAMES_PER_WINDOW,
    )
  starts = np.maximum(ends - first, 0)
  # Long enough that every window has a partner: `apart` on one side at least.
  room = (group - 1) * apart + 1 if kind == 'contrastive' else 2 * apart
  if kind == 'contrastive':
    usable = starts >= room
  else:
    usable = (starts > 0) & (spans >= max(room, 1))
  if keep is not None:
    usable &= keep
  clips = np.flatnonzero(usable)
  if not clips.size:
    raise WindowError(
      f'expected clips with at least {max(room, 1) + FRAMES_PER_WINDOW - 1} frames and '
      f'their sound, found {len(frames)} clips, the longest of '
      f'{max(frames, default=0)} frames; build longer clips or lower `apart`'
    )
  names = np.array(speakers)[clips]
  rows = tuple(np.flatnonzero(names == name) for name in np.unique(names))
  fixed = apart, most, elsewhere, group
  return WindowIndex(
    kind, order, clips, first, starts[clips], spans[clips], rows, *fixed
  )


def _last_frame_inside(
  mel_columns: Int[np.ndarray, 'n'], lead: Fraction
) -> Int[np.ndarray, 'n']:
  """The last frame whose mel window ends within the sound."""
  # floor(80 (f / 25 - lead)) <= columns - 16, solved for f.
  p, q = lead.numerator, lead.denominator
  over = FPS * ((mel_columns - audio.WINDOW_COLUMNS + 1) * q + 80 * p)
  return -(-over // (80 * q)) - 1


def sample_windows(
  items: Int[np.ndarray, 'b'], rng: np.random.Generator, plan: WindowIndex
) -> WindowSample:
  """Choose the windows of a batch of examples.

  All rows at once: drawn one by one in Python, a batch of 160 took 30 to
  50 ms, and an H200 waited for it.

  Returns:
    clip, frame: int32 `[b]`, the clip in its source and the window's first
      frame; `[b, k]` frames for contrastive, `[b, TRIES, 2]` for pair.
    other, start: int32, clip `[b]` and first frame of the wrong (or, with
      label 1, the same) window, or of the reference; not for contrastive,
      and for pair start is `[b, TRIES, 2]`.
    label: float32 `[b]`, 1 in sync and 0 wrong; syncnet only.
    dice: float32 `[b, 14]` in [0, 1), what the augmentation is made of.
    seed: int32 `[b]`, of its noise.
  """
  count = len(items)
  at, frame = _sample_positions(plan, items, rng)
  rows = {
    'clip': plan.clips[at],
    'dice': rng.random((count, NUM_UNIFORMS), np.float32),
    'seed': rng.integers(2**31, size=count),
  }
  if plan.kind == 'contrastive':
    rows['frame'] = _sample_spread(plan, plan.starts[at], rng)
  elif plan.kind == 'pair':
    starts, spans = (x[at][:, None, None] for x in (plan.starts, plan.spans))
    shape = count, PAIR_CANDIDATES, 2
    rows['frame'] = plan.first + rng.integers(starts, size=shape)
    # Round the clip's end to its beginning, `apart` from either side.
    away = plan.apart + rng.integers(spans - 2 * plan.apart + 1, size=shape)
    rows |= {'other': rows['clip'], 'start': (rows['frame'] + away) % spans}
  else:
    rows |= {'frame': frame} | _sample_negatives(plan, at, frame, rng)
  return {
    name: np.asarray(value, None if name in ('dice', 'label') else np.int32)
    for name, value in rows.items()
  }


def select_most_different(pick: dict, opening, xnp: ModuleType = np) -> dict:
  """The pick of a pair whose two mouths differ most.

  Neighboring frames mostly look alike; these show what the sound does. The
  opening is measured, so that only the pictures that are needed are decoded.

  Args:
    pick: of kind 'pair', or a batch of them.
    opening: [..., TRIES, 2] at every `frame`.

  Returns:
    The pick with `frame` and `start` `[..., 2]`.
  """
  apart = xnp.abs(opening[..., 0] - opening[..., 1])
  best = apart.argmax(-1)[..., None, None]
  names = ('frame', 'start')
  return pick | {
    name: xnp.take_along_axis(pick[name], best, -2)[..., 0, :] for name in names
  }


def _sample_positions(plan: WindowIndex, items: Rows, rng) -> tuple[Rows, Rows]:
  """Positions in `plan.clips`, and the first frames of windows."""
  if plan.order == 'window':
    at = np.searchsorted(plan.ends, items, side='right')
    return at, plan.first + items - (plan.ends[at] - plan.starts[at])
  at = items
  if plan.order == 'speaker':
    counts = np.array([len(rows) for rows in plan.speakers])
    who = items % len(counts)
    nth = np.cumsum(counts)[who] - counts[who] + rng.integers(counts[who])
    at = np.concatenate(plan.speakers)[nth]
  return at, plan.first + rng.integers(plan.starts[at])


def _sample_negatives(
  plan: WindowIndex, at: Rows, frame: Rows, rng
) -> WindowSample:
  """The wrong windows of syncnet with labels, or references."""
  other, start = at, _sample_distant(plan, frame, plan.spans[at], rng)
  if plan.elsewhere and len(plan.clips) > 1:
    step = rng.integers(1, len(plan.clips), size=len(at))
    far = (at + step) % len(plan.clips)
    moves = rng.random(len(at)) < plan.elsewhere
    other = np.where(moves, far, at)
    start = np.where(moves, rng.integers(plan.spans[far]), start)
  if plan.kind != 'syncnet':
    return {'other': plan.clips[other], 'start': start}
  label = rng.integers(2, size=len(at))
  return {
    'other': plan.clips[np.where(label, at, other)],
    'start': np.where(label, frame, start),
    'label': label.astype(np.float32),
  }


def _sample_distant(plan: WindowIndex, frame: Rows, spans: Rows, rng) -> Rows:
  """Windows of the same clips, uniform among those far enough away."""
  near = plan.apart
  far = np.full_like(spans, plan.most) if plan.most else spans
  low = np.maximum(frame - far, 0)  # the first before, then the first after
  high = np.minimum(frame + near, spans)
  before = np.maximum(frame - near + 1 - low, 0)
  after = np.maximum(np.minimum(frame + far + 1, spans) - high, 0)
  nth = rng.integers(before + after)
  return np.where(nth < before, low + nth, high + nth - before)


def _sample_spread(
  plan: WindowIndex, starts: Rows, rng
) -> Int[np.ndarray, 'b k']:
  """`group` windows at least `apart` from one another, in any order."""
  slack = starts - (plan.group - 1) * (plan.apart - 1)
  drawn = np.empty((len(starts), 0), np.int64)
  for k in range(plan.group):  # the n-th of those that are left
    new = rng.integers(slack - k)
    for before in np.sort(drawn, 1).T:
      new = new + (new >= before)
    drawn = np.concatenate([drawn, new[:, None]], 1)
  rank = drawn.argsort(1).argsort(1)
  return plan.first + drawn + rank * (plan.apart - 1)
