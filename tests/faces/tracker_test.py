"""Detect: real clips, faces that come and go, cuts, flashes and neighbors."""

import subprocess
import sys

import numpy as np
import pytest

from lipsync_jax.faces import detector, identity, landmarks, tracker, trajectory
from lipsync_jax.faces.boxes import detector_boxes, iou_matrix
from lipsync_jax.faces.landmarks import FaceError


@pytest.fixture(scope='module')
def finder():
  with detector.FaceDetector() as found:
    yield found


def frames(path, count, start=0):
  import av

  with av.open(str(path)) as file:
    for i, frame in enumerate(file.decode(video=0)):
      if i >= start + count:
        return
      if i >= start:
        yield frame.to_ndarray(format='rgb24')


def stream(pictures, rate=25, largest=None):
  import cv2

  for i, rgb in enumerate(pictures):
    h, w = rgb.shape[:2]
    scale = min(1, 640 / max(h, w))
    size = (round(w * scale), round(h * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)

    def fetch(box, rgb=rgb):
      part = rgb[box[1] : box[3], box[0] : box[2]]
      shrink = (largest or max(part.shape)) / max(part.shape)
      if shrink >= 1:
        return part
      return cv2.resize(
        part, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
      )

    yield i, i / rate, small, fetch


def analyze(pictures, finder):
  pictures = list(pictures)
  return tracker.track_faces(stream(pictures), pictures[0].shape[:2], finder)


@pytest.fixture(scope='module')
def grid(request):
  shared = request.getfixturevalue('shared')
  return list(frames(shared / 'media/clips/grid_bbaf2n.mpg', 24))


@pytest.fixture(scope='module')
def other(request):
  shared = request.getfixturevalue('shared')
  return list(frames(shared / 'media/clips/grid_sbwe5n.mpg', 24))


CLIPS = {  # persons, and the width of the largest face in pixels
  'seed/mona7s.mp4': (1, 305),
  'clips/four_people.mp4': (5, 90),
  'clips/two_people_interview.mp4': (2, 195),
  'clips/face224_00015.mp4': (1, 110),
  'silent/yongen.mp4': (1, 240),
}


@pytest.mark.parametrize('name', CLIPS)
def test_every_face_of_every_frame(shared, finder, name):
  count, width = CLIPS[name]
  found = analyze(frames(shared / 'media' / name, 8), finder)
  people = identity.group_people(found)
  assert len(people) == count and not len(found.cuts)
  for person in people:
    assert trajectory.build_trajectory(found, person).present.all()
  boxes = people[0].tracks[0].boxes
  np.testing.assert_allclose(
    (boxes[:, 2] - boxes[:, 0]).mean(), width, rtol=0.1
  )
  assert sum(t.points[0].nbytes for t in found.tracks) < 1000 * count


def test_landmarks_land_in_the_frame(shared, finder):
  """The eyes, from any crop and scale, where YuNet's own marks are."""
  (rgb,) = frames(shared / 'media/clips/retalking3.mp4', 1)
  boxes, scores = finder.faces(rgb)
  assert len(boxes) == 1 and scores[0] > 0.9
  x0, y0, x1, y1 = boxes[0].astype(int)
  whole = finder.landmarks(rgb)
  part = finder.landmarks(
    rgb[y0 - 50 : y1 + 40, x0 - 70 : x1 + 20], (x0 - 70, y0 - 50)
  )
  kept = list(landmarks.LANDMARK_IDS)
  apart = np.linalg.norm(whole[kept, :2] - part[kept, :2], axis=1)
  assert np.median(apart) < 0.03 * (x1 - x0)
  drawn = detector_boxes(part[kept, :2][None])
  assert iou_matrix(drawn, boxes)[0, 0] > 0.8


def test_crops_of_the_landmarkers_size_are_enough(shared, finder):
  """Analyses from large and from scaled crops of a large face agree."""
  path = shared / 'media/clips/retalking3.mp4'
  pictures = list(frames(path, 8))
  shape = pictures[0].shape[:2]
  whole, scaled = (
    tracker.track_faces(stream(pictures, 25, side), shape, finder)
    for side in (None, detector.LANDMARKER_SIZE)
  )
  (a,), (b,) = whole.tracks, scaled.tracks
  width = (a.boxes[:, 2] - a.boxes[:, 0]).mean()
  assert 1.8 * width > 1.5 * detector.LANDMARKER_SIZE
  assert np.sqrt(np.square(a.points - b.points).mean()) < 0.01 * width
  assert identity.appearance_similarity(a.appearance, b.appearance) > 0.9


def test_a_search_in_a_thread_finds_the_same(grid, finder):
  boxes, scores = finder.submit_faces(grid[0], 2.0).result()
  wanted, trust = finder.faces(grid[0], 2.0)
  np.testing.assert_array_equal(boxes, wanted)
  np.testing.assert_array_equal(scores, trust)


def test_no_face_anywhere(finder):
  rng = np.random.default_rng(0)
  noise = [rng.integers(0, 256, (240, 320, 3), np.uint8) for _ in range(3)]
  for pictures in (noise, [np.zeros((16, 16, 3), np.uint8)] * 2):
    found = analyze(pictures, finder)
    assert found.tracks == ()
    with pytest.raises(FaceError, match='no face'):
      identity.choose_person(identity.group_people(found), 'largest')


def test_one_picture(grid, finder):
  found = analyze(grid[:1], finder)
  assert len(found.tracks) == 1 and len(found.times) == 1


def test_a_cut_ends_tracks_and_persons_return(grid, other, finder):
  found = analyze(grid[:8] + other[:8] + grid[8:16], finder)
  assert found.cuts.tolist() == [8, 16]
  spans = sorted((t.frames[0], t.frames[-1]) for t in found.tracks)
  assert spans == [(0, 7), (8, 15), (16, 23)]
  people = identity.group_people(found)
  assert sorted(len(p.tracks) for p in people) == [1, 2]


def test_a_flash_and_a_hidden_face_are_bridged(grid, finder):
  pictures = [g.copy() for g in grid[:20]]
  pictures[6][:] = 255
  pictures[12][:] = pictures[13][:] = 0
  found = analyze(pictures, finder)
  assert not len(found.cuts) and len(found.tracks) == 1
  path = trajectory.build_trajectory(found, identity.group_people(found)[0])
  assert path.present.all() and path.filled.sum() == 3
  assert len(path.spans) == 1


def test_a_face_that_comes_late_and_leaves(grid, finder):
  empty = np.zeros_like(grid[0])
  empty[:] = np.median(grid[0][:20], axis=(0, 1))
  found = analyze([empty] * 4 + grid[:8] + [empty] * 4, finder)
  people = identity.group_people(found)
  present = trajectory.build_trajectory(found, people[0]).present
  np.testing.assert_array_equal(np.flatnonzero(present), range(4, 12))


def test_neighbors_do_not_swap(grid, other, finder):
  """Two heads side by side, closer than the landmarker's crop is wide."""
  pictures = [
    np.concatenate([g[:, 90:230], o[:, 115:255]], 1)
    for g, o in zip(grid[:10], other[:10], strict=True)
  ]
  found = analyze(pictures, finder)
  people = identity.group_people(found)
  assert len(people) == 2
  for person in people:
    (track,) = person.tracks
    assert len(track.frames) == 10
    middle = track.boxes[:, [0, 2]].mean(1)
    assert np.ptp(middle) < 30


def test_a_changed_model_file_is_refused(monkeypatch):
  monkeypatch.setitem(detector.ASSETS, 'face_landmarker.task', '0' * 64)
  with pytest.raises(FaceError, match='expected 000000000000…; reinstall'):
    detector._read_model('face_landmarker.task')


SCRIPT = """
import sys, types
import numpy as np
sys.modules.pop('tensorflow', None)
from lipsync_jax.faces.detector import FaceDetector
with FaceDetector() as finder:
  picture = np.zeros((64, 64, 3), np.uint8)
  assert finder.landmarks(picture) is None
  assert not finder.map(finder.landmarks, [picture] * 4)[0]
  assert len(finder.faces(picture)[0]) == 0
assert 'tensorflow' not in sys.modules
assert 'matplotlib.axes' not in sys.modules
if 'matplotlib' in sys.modules:  # a later user gets the whole module
  import matplotlib.pyplot
  assert callable(matplotlib.pyplot.figure)
print('fine')
"""


def test_nothing_is_said_on_stderr():
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT], capture_output=True, text=True, timeout=120
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, 'fine\n', '')


def test_a_shot_of_one_frame_keeps_its_face(grid, other, finder):
  """One picture a second: every one is a shot of its own, and no stray."""
  found = analyze([grid[0], other[0]], finder)
  np.testing.assert_array_equal(found.cuts, [1])
  assert [part.frames.tolist() for part in found.tracks] == [[0], [1]]


HOLDS = """
import gc, weakref
from lipsync_jax.faces.detector import FaceDetector

class Analysis:
  pass

def first_pass():
  found = Analysis()
  FaceDetector().close()
  return weakref.ref(found)

left = first_pass()
gc.collect()
print(left())
"""


def test_importing_mediapipe_holds_nothing_of_the_caller():
  """Where PortAudio is missing it keeps an exception, and frames with it."""
  done = subprocess.run(
    [sys.executable, '-c', HOLDS], capture_output=True, text=True, timeout=300
  )
  assert done.stdout.strip() == 'None', done.stdout + done.stderr
