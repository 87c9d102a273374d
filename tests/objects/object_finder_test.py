"""Objects before mouths over time: no flicker, no delay, nothing over cuts."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.common import disk_array
from lipsync_jax.faces import crop as crops
from lipsync_jax.media.types import Color, Frame, Video
from lipsync_jax.models import occlusion
from lipsync_jax.objects import object_finder
from lipsync_jax.rendering import renderer, timeline
from lipsync_jax.rendering.visibility import REPORT_TEXT, SkipReason
from tests.helpers import synthetic_face

RATE, COUNT, CUT = 25, 60, 40
VIDEO = Video(
  'face.mp4', 96, 96, Fraction(RATE), Fraction(3), Fraction(0), 'yuv420p',
  Color(),
)  # fmt: skip
GRID = occlusion.GRID


def picture(index: int) -> Frame:
  planes = tuple(np.full((s, s), 90, np.uint8) for s in (96, 48, 48))
  return Frame(index, Fraction(index, RATE), planes)


def plan_of(order) -> renderer.RenderPlan:
  points = synthetic_face.face(cx=48, cy=48, width=60).astype(np.float32)
  rows = np.repeat(points[None], COUNT, 0)
  speaker = renderer.SpeakerTrack(
    crops.face_crops(rows),
    disk_array.to_disk(rows),
    disk_array.to_disk(np.zeros((20, 80), np.float32)),
    np.zeros(len(order), np.int64),
    np.ones(len(order)),
    np.array([[0, CUT], [CUT, COUNT]]),
  )
  length = Fraction(1, RATE)
  frames = [
    timeline.OutputFrame(i * length, length, k) for i, k in enumerate(order)
  ]
  times = [Fraction(i, RATE) for i in range(COUNT)]
  return renderer.RenderPlan(VIDEO, times, frames, (speaker,))


@pytest.fixture
def search(monkeypatch):
  """Masks of the output frames, and the finder, for objects in frames."""

  def read(video, indices, times):
    yield from map(picture, np.asarray(indices).tolist())

  monkeypatch.setattr(object_finder, 'read_chosen_frames', read)

  def judge(self, face, index, number):
    lips = self.objects.get(index)
    if lips is None:
      return None
    mask = np.zeros((GRID, GRID), np.float32)
    mask[30:, :12] = 1
    return object_finder.Found(mask, lips)

  monkeypatch.setattr(object_finder.ObjectFinder, '_judge', judge)

  def run(objects, order=range(COUNT), parts=(0,)):
    plan = plan_of(list(order))
    finder = object_finder.ObjectFinder(plan, lambda face: None)
    finder.objects = objects
    masks, finder.uncovered = [], []
    for first, end in zip(parts, (*parts[1:], len(plan.frames)), strict=True):
      jobs = (
        renderer.FrameJob(k - first, picture(plan.frames[k].index), {0: True})
        for k in range(first, end)
      )
      for job in finder.follow(jobs, first):
        masks.append(job.covers.get(0))
        finder.uncovered.append(job.uncovered.get(0, 1.0))
    blank = np.zeros((GRID, GRID), np.float32)
    return np.stack([blank if m is None else m for m in masks]), finder

  return run


def test_what_is_found_is_kept_and_fades(search):
  masks, _ = search({k: 0.0 for k in range(10, 20)})
  cell = masks[:, 40, 5]
  assert cell[10:20].min() == 1 and not cell[:7].any() and not cell[23:].any()
  assert np.abs(np.diff(cell)).max() < 1.001 / (RATE * 0.12)
  assert not masks[:, 40, 30].any()


def test_a_frame_in_which_nothing_is_found_does_not_flicker(search):
  masks, _ = search({k: 0.0 for k in range(10, 20) if k != 15})
  assert masks[15, 40, 5] > 0.6


def test_an_object_of_one_frame_is_none(search):
  masks, finder = search({15: 1.0})
  assert not masks.any() and not finder.coverage[0].lips.any()


def test_a_hidden_mouth_fades(search):
  _, finder = search({k: 1.0 for k in range(10, 20)})
  mouth = 1 - np.array(finder.uncovered)
  np.testing.assert_allclose(mouth, finder.coverage[0].hidden, atol=1e-6)
  assert mouth[10:20].min() == 1 and 0 < mouth[7] < mouth[8] < mouth[9] < 1
  assert np.abs(np.diff(mouth)).max() < 1.001 / (RATE * 0.2)


def test_nothing_crosses_a_cut(search):
  masks, _ = search({k: 1.0 for k in range(30, CUT)})
  assert masks[CUT - 1].max() == 1 and not masks[CUT:].any()


@pytest.mark.parametrize('parts', [(0, 12), (0, 17, 18, 44)])
def test_segments_change_nothing(search, parts):
  objects = {k: 0.5 for k in (9, 10, 11, 12, 13, 17, 18, 43, 44)}
  whole, one = search(objects)
  apart, other = search(objects, parts=parts)
  np.testing.assert_array_equal(whole, apart)
  for name in ('lips', 'hidden'):
    np.testing.assert_array_equal(
      getattr(one.coverage[0], name), getattr(other.coverage[0], name)
    )


def test_the_direction_of_playback_changes_nothing(search):
  objects = {k: 0.5 for k in (9, 10, 11, 12, 55, 56, 59)}
  order = [*range(COUNT), *range(COUNT - 2, 0, -1)]
  masks, _ = search(objects, order)
  for position, index in enumerate(order):
    np.testing.assert_array_equal(masks[position], masks[index])


def test_the_report_counts_covered_frames(search):
  _, finder = search({k: 0.2 for k in (5, 6)} | {k: 1.0 for k in range(20, 30)})
  facts = {'frames_spoken': COUNT, 'skipped': []}
  finder.report([facts])
  assert facts['frames_covered'] == 12 and facts['frames_spoken'] == COUNT - 10
  (gap,) = facts['skipped']
  assert gap['why'] == REPORT_TEXT[SkipReason.MOUTH_COVERED]
  assert gap['from'] <= 20 / RATE and 30 / RATE <= gap['to'] <= 34 / RATE


def test_only_shown_frames_count(search):
  """What lies after the end of the sound has no effect."""
  masks, _ = search({k: 1.0 for k in range(20, 30)}, range(20))
  assert not masks.any()


def test_a_photo_is_searched(monkeypatch):
  plan = plan_of([0] * 5)
  still = dataclasses.replace(plan.video, still=True)
  plan = dataclasses.replace(plan, video=still)
  found = np.zeros((GRID, GRID), np.float32)
  found[30:, 10:40] = 0.95
  finder = object_finder.ObjectFinder(plan, lambda face: found)
  finder.keep_sample(picture(0), 0)
  finder.learn()
  jobs = (renderer.FrameJob(k, picture(0), {0: True}) for k in range(5))
  masks = [job.covers[0] for job in finder.follow(jobs, 0)]
  assert all(mask[40:, 15:35].min() > 0.9 for mask in masks)
  assert (finder.coverage[0].lips > 0.5).all()
