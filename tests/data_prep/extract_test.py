"""Training clips of synthetic videos."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import install_import_hook

from lipsync_jax.data.clip import Clip
from lipsync_jax.faces.boxes import bounding_boxes
from lipsync_jax.faces.crop import crop_corners, crop_from_row, extract_crop
from lipsync_jax.media import video_reader, yuv
from lipsync_jax.media.types import Frame
from tests.helpers import synthetic_face
from tests.helpers.test_clips import write_video
from tests.helpers.training_videos import (
  analysis,
  decoded,
  face_center,
  film,
  results,
)

with install_import_hook('data_prep', 'tests.helpers.typecheck.typechecked'):
  from data_prep import extract, pictures

SETTINGS = extract.Settings()


def frame(i, t):
  pixel = np.zeros((1, 1), np.uint8)
  return Frame(i, Fraction(t), (pixel, pixel, pixel))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_nearest_frame_is_shown(gaps):
  times = [Fraction(v, 1000) for v in np.cumsum([0, *gaps]).tolist()]
  shown = list(
    extract.frames_at_rate(
      (frame(i, t) for i, t in enumerate(times)), Fraction(1, 25)
    )
  )
  assert [k for k, _ in shown] == list(range(len(shown)))
  for k, f in shown:
    assert abs(f.time - Fraction(k, 25)) == min(
      abs(t - Fraction(k, 25)) for t in times
    )
  assert abs(len(shown) / 25 - times[-1] - 0.04) < 0.061


@pytest.mark.parametrize('rate', [25, 30, 50, 60, Fraction(30000, 1001), 12])
def test_rates(rate):
  step = 1 / Fraction(rate)
  shown = list(
    extract.frames_at_rate((frame(i, i * step) for i in range(120)), step)
  )
  assert abs(len(shown) - 120 * step * 25) <= 1
  if rate == 25:
    assert [f.index for _, f in shown] == list(range(120))


@given(st.integers(0, 50), st.integers(1, 3000), st.integers(1, 400))
def test_split_covers(first, length, longest):
  parts = extract.split_run(first, first + length, longest)
  assert [a for part in parts for a in range(*part)] == list(
    range(first, first + length)
  )
  sizes = [b - a for a, b in parts]
  assert max(sizes) <= longest and max(sizes) - min(sizes) <= 1


def test_boxes_hold_the_crops():
  rng = np.random.default_rng(1)
  crops = np.stack(
    [
      *rng.uniform(150, 300, (2, 40)),
      *rng.uniform(60, 90, (2, 40)),
      rng.uniform(-0.4, 0.4, 40),
    ],
    -1,
  )
  boxes = pictures.crop_boxes(crops, (480, 640), 0.15)
  assert (boxes % 2 == 0).all() and (boxes >= 0).all()
  sides = boxes[:, 2:] - boxes[:, :2]
  assert (sides == sides[0]).all()
  for row, box in zip(crops, boxes, strict=True):
    low, high = np.split(bounding_boxes(crop_corners(crop_from_row(row))), 2)
    assert (low - box[:2] > 0.14 * row[2:4].min()).all()
    assert (box[2:] - high > 0.14 * row[2:4].min()).all()
  edge = pictures.crop_boxes(crops, (260, 256), 0.15)
  assert (edge[:, 2] <= 256).all() and (edge[:, 3] <= 260).all()


def test_clip_shows_what_inference_sees(tmp_path):
  path = film(tmp_path / 'a.mkv')
  (clip,) = results(path, analysis(60), quality=100)
  assert (clip.key, clip.speaker, len(clip.frames)) == ('ann/one', 'ann', 60)
  video = video_reader.probe_video(path)
  shape = {decoded(clip, i).shape for i in (0, 30, 59)}
  assert len(shape) == 1
  for shown in video_reader.read_frames(video):
    i = shown.index
    jpeg, crop = decoded(clip, i), crop_from_row(clip.crops[i])
    x, y = clip.boxes[i, :2]
    source = dataclasses.replace(
      crop, cx=crop.cx + float(x), cy=crop.cy + float(y)
    )
    ours = extract_crop(jpeg, crop, 96).astype(float)
    theirs = extract_crop(yuv.to_rgb(video, shown), source, 96)
    assert np.abs(ours - theirs).mean() < 1.5
    away = (
      clip.points[i]
      + clip.boxes[i, :2]
      - synthetic_face.face(*face_center(i), 98.0)
    )
    assert np.abs(away).max() < 1.5
  assert len(clip.wave) == 60 * 640 and np.isnan(clip.offset)
  assert np.flatnonzero(clip.wave > 15000).tolist() == [0, 16000, 32000]


def test_large_faces_are_stored_smaller(tmp_path):
  path = film(tmp_path / 'a.mkv', 20)
  (clip,) = results(path, analysis(20), max_image_side=80)
  (whole,) = results(path, analysis(20))
  assert max(decoded(clip, 0).shape) == 80 < max(decoded(whole, 0).shape)
  a, b = (
    extract_crop(decoded(c, 9), crop_from_row(c.crops[9]), 64).astype(float)
    for c in (clip, whole)
  )
  assert np.abs(a - b).mean() < 4


def test_several_people_and_cuts(tmp_path):
  path = film(tmp_path / 'a.mkv')
  two = analysis(60, ((0, None, -70.0), (0, 40, 70.0)), cuts=(30,))
  (drop,) = results(path, two)
  assert drop.reason == extract.SEVERAL
  made = results(path, two, single=False)
  keys = [(c.key, len(c.frames)) for c in made if isinstance(c, Clip)]
  assert sorted(keys) == [
    ('ann/one#0', 30), ('ann/one#1', 30), ('ann/one#2', 30),
  ]  # fmt: skip
  (short,) = [c for c in made if isinstance(c, extract.Rejection)]
  assert (short.key, short.reason) == ('ann/one#3', extract.SHORT)
  second = next(c for c in made if c.key == 'ann/one#2')
  assert np.flatnonzero(second.wave > 15000).tolist() == [12800]


def test_long_runs_are_cut_in_pieces(tmp_path):
  made = results(film(tmp_path / 'a.mkv'), analysis(60), max_frames=25)
  assert [(c.key, len(c.frames)) for c in made] == [
    ('ann/one#0', 20), ('ann/one#1', 20), ('ann/one#2', 20),
  ]  # fmt: skip


def test_a_hole_in_time_parts_a_clip(tmp_path):
  seen = analysis(60)
  times = seen.times.copy()
  times[20:35] = times[20]  # the picture stood still
  pieces, _ = extract.find_pieces(
    dataclasses.replace(seen, times=times), False, SETTINGS
  )
  assert [(p.first, len(p.crops)) for p in pieces] == [(0, 23), (35, 25)]


@pytest.mark.parametrize(
  'reason, seen, values',
  [
    (extract.NO_FACE, analysis(30, ()), {}),
    (extract.SHORT, analysis(30, ((2, 12, 0.0),)), {}),
    (extract.SMALL_FACE, analysis(30), {'min_face_width': 150.0}),
    (extract.SILENT, analysis(30), {'silence': -1.0}),
  ],
)
def test_one_reason_for_each_drop(tmp_path, reason, seen, values):
  (drop,) = results(film(tmp_path / 'a.mkv', 30), seen, **values)
  assert drop.reason == reason and drop.key == 'ann/one'


def test_no_sound_is_silent(tmp_path):
  path = write_video(
    tmp_path / 'a.mp4', [Fraction(i, 25) for i in range(30)], (320, 240)
  )
  (drop,) = results(path, analysis(30))
  assert drop.reason == extract.SILENT and 'no audio stream' in drop.detail
