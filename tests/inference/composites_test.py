"""Two and three real persons in one picture, with cuts and crossings.

Pictures of people are put where the test wants them, so that every edited
pixel has a known owner. The command runs in full, detection and choice of
the person included; the generator is a stand-in that roughens what it sees.

LIPSYNC_JAX_COMPOSITES=4 makes every shot four times as long (default 1).
"""

import dataclasses
import itertools
import os

import av
import cv2
import numpy as np
import pytest

from lipsync_jax import audio, sync
from lipsync_jax.faces import detector, track_builder
from lipsync_jax.inference import network_cache, pipeline
from lipsync_jax.weights import convert
from tests.helpers import test_clips

LONG = float(os.environ.get('LIPSYNC_JAX_COMPOSITES', '1'))
SIZE = (288, 640)  # rows, columns
TALL, WIDE = 224, 192  # of everybody's picture
LEFT, MIDDLE, RIGHT = (16, 40), (224, 40), (432, 40)  # x, y of its corner
CAST = ('grid_bbaf2n.mpg', 'grid_lbbc2a.mpg', 'face224_00067.mp4')


@dataclasses.dataclass(frozen=True)
class Actor:
  """Somebody's pictures, and where in them the face is."""

  pictures: list[np.ndarray]
  boxes: np.ndarray  # [f, 4] x0 y0 x1 y1, as the detector draws it

  def at(self, time: int) -> int:
    """The picture of that time; they go to and fro."""
    last = len(self.pictures) - 1
    return last - abs(last - time % (2 * last))


@dataclasses.dataclass(frozen=True)
class Frame:
  """A composite: (actor, x, y), the hindmost first."""

  shot: int
  placed: tuple[tuple[int, int, int], ...]

  def owners(self) -> np.ndarray:
    """Whose pixel each is; -1 is nobody's."""
    out = np.full(SIZE, -1)
    for who, x, y in self.placed:
      out[y : y + TALL, x : x + WIDE] = who
    return out


def actor(path, finder) -> Actor:
  """One person of a clip, cut round the face at 70 pixels' width."""
  with av.open(str(path)) as file:
    frames = itertools.islice(file.decode(video=0), 74)
    pictures = [frame.to_ndarray(format='rgb24') for frame in frames]
  box = finder.faces(pictures[0])[0][0]
  scale = 70 / (box[2] - box[0])
  x, y = (box[:2] + box[2:]) / 2 * scale
  shift = np.array([[scale, 0, WIDE / 2 - x], [0, scale, TALL / 2 - y]])
  cut = [
    cv2.warpAffine(p, shift, (WIDE, TALL), borderMode=cv2.BORDER_REPLICATE)
    for p in pictures
  ]
  boxes, last = [], None
  for picture in cut:
    found = finder.faces(picture)[0]
    last = found[0] if len(found) else last
    boxes.append(last)
  return Actor(cut, np.array(boxes))


@pytest.fixture(scope='module')
def cast(shared):
  with detector.FaceDetector() as finder:
    folder = shared / 'media' / 'clips'
    return [actor(folder / name, finder) for name in CAST]


def still(count: float, *placed) -> list[tuple]:
  """Placements of a shot in which nobody moves: (actor, place)."""
  row = tuple((who, *place) for who, place in placed)
  return [row] * round(count * LONG)


def crossing(count: float, behind: int, front: int, *rest) -> list[tuple]:
  """Two change places, left and right, one in front of the other."""
  rows, count = [], round(count * LONG)
  for i in range(count):
    share = np.clip(1.5 * i / count - 0.25, 0, 1)
    x = round(LEFT[0] + share * (RIGHT[0] - LEFT[0]))
    mirrored = LEFT[0] + RIGHT[0] - x
    rows.append((*rest, (behind, x, LEFT[1]), (front, mirrored, RIGHT[1])))
  return rows


def film(shots) -> list[Frame]:
  return [Frame(i, row) for i, shot in enumerate(shots) for row in shot]


A, B, C = range(3)
SCRIPTS = {
  'two with cuts': [
    still(30, (A, LEFT), (B, RIGHT)),
    still(25, (B, LEFT), (A, RIGHT)),  # they have changed places
    still(25, (A, MIDDLE)),
    still(25, (B, MIDDLE)),  # another in the same place
    still(25, (B, LEFT), (A, MIDDLE)),
  ],
  'two crossing': [
    still(15, (A, LEFT), (B, RIGHT)) + crossing(75, A, B),
    crossing(75, B, A),
  ],
  'three with cuts and crossings': [
    still(25, (A, LEFT), (C, MIDDLE), (B, RIGHT)),
    still(20, (C, LEFT), (B, MIDDLE), (A, RIGHT)),
    crossing(75, B, C, (A, *MIDDLE)),
    still(20, (A, LEFT)),
    still(20, (C, LEFT)),
  ],
}


def write(path, frames, cast):
  rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
  wall = 90 + 40 * np.sin(rows / 37) * np.cos(columns / 53)
  wall = np.repeat(wall[..., None], 3, -1).astype('u1')

  def picture(i):
    out = wall.copy()
    for who, x, y in frames[i].placed:
      one = cast[who].pictures[cast[who].at(i)]
      out[y : y + TALL, x : x + WIDE] = one
    return out

  times = [i / 25 for i in range(len(frames))]
  return test_clips.write_video(path, times, SIZE[::-1], picture)


@pytest.fixture
def rough(monkeypatch):
  """A generator that adds a chequer to the face it is given."""
  cells = np.add.outer(np.arange(96) // 8, np.arange(96) // 8) % 2
  change = (80 * cells - 40)[..., None]

  def predictor(variables, size, width, dtype, batch):
    def predict(mel, face):
      return np.clip(face.astype(int) + change, 0, 255).astype('u1')

    return predict, 'stand-in'

  net = convert.Weights(
    'generator',
    96,
    1.0,
    {},
    'test',
    sha256='0',
    mel_lead=audio.CENTERED_LEAD,
  )
  monkeypatch.setattr(pipeline.convert, 'load_any', lambda path, network: net)
  monkeypatch.setattr(network_cache.runtime, 'build_predictor', predictor)


@dataclasses.dataclass
class Tally:
  """What became of one person's frames."""

  due: int = 0  # frames that show the whole face
  edited: int = 0  # of these
  strays: int = 0  # frames in which another's face was touched
  places: dict = dataclasses.field(default_factory=dict)  # by shot


def face_box(actor: Actor, i: int, x: int, y: int) -> tuple:
  box = np.rint(actor.boxes[actor.at(i)]).astype(int)
  return np.s_[y + box[1] : y + box[3], x + box[0] : x + box[2]]


def tally(frames, cast, before, after, person: int) -> Tally:
  found = Tally()
  for i, frame in enumerate(frames):
    edited, owners = before[i] != after[i], frame.owners()
    own = edited & (owners == person)
    for who, x, y in frame.placed:
      part = face_box(cast[who], i, x, y)
      mine = owners[part] == who
      if who != person:
        found.strays += bool((edited[part] & mine).any())
      elif mine.all():
        found.due += 1
        found.edited += own[part].mean() > 0.1
        rows, columns = np.nonzero(own)
        if rows.size:
          at = (columns.mean() - x, rows.mean() - y)
          found.places.setdefault(frame.shot, []).append(at)
    if all(who != person for who, _, _ in frame.placed):
      found.strays += bool(edited.any())
  return found


def first_place(frames, cast, person: int) -> str:
  """`--person x,y` for somebody who is there from the first frame."""
  (x, y) = next((x, y) for who, x, y in frames[0].placed if who == person)
  box = cast[person].boxes[0]
  return f'{x + (box[0] + box[2]) / 2:.0f},{y + (box[1] + box[3]) / 2:.0f}'


def strand(changes, after) -> track_builder.TrackBuilder:
  """Followed for 20 frames; in the ninth it looked unlike the one before."""
  made = track_builder.TrackBuilder()
  made.frames.extend(range(20))
  made.changes.extend(changes)
  made.switches.append([8, np.eye(620, dtype=np.float32)[0], after])
  return made


def test_another_face_in_the_same_place_is_no_turn_and_no_hand():
  one, other = np.eye(620, dtype=np.float32)[:2]
  alone = [0.02] * 8 + [0.5] + [0.03] * 11
  assert track_builder.identity_switches(strand(alone, other)) == [8]
  assert (
    track_builder.identity_switches(strand(alone, one)) == []
  )  # a hand, gone again
  turning = [0.02] * 7 + [0.3, 0.5, 0.3] + [0.03] * 10
  assert track_builder.identity_switches(strand(turning, other)) == []


def test_half_of_the_faces_make_a_cut():
  other = np.eye(620, dtype=np.float32)[1]
  three = [strand([0.0] * 20, other) for _ in range(3)]
  assert (
    track_builder.simultaneous_changes(three, [[8], [], []]) == []
  )  # one picture of three
  assert track_builder.simultaneous_changes(three, [[8], [8], []]) == [8]
  assert track_builder.simultaneous_changes(three[:2], [[8], []]) == [8]


@pytest.mark.slow
@pytest.mark.parametrize('name', SCRIPTS)
def test_the_chosen_person_and_nobody_else(name, cast, rough, tmp_path):
  frames = film(SCRIPTS[name])
  face = write(tmp_path / 'face.mp4', frames, cast)
  noise = np.random.default_rng(0).normal(0, 0.2, len(frames) * 640)
  voice = test_clips.write_wav(tmp_path / 'voice.wav', noise)
  _, before = test_clips.read_video(face)
  people = sorted({who for who, _, _ in frames[0].placed})
  for person in people:
    out = tmp_path / f'{person}.mp4'
    report = sync.sync(
      face, voice, out, checkpoint_path='x', crf=0, quiet=True,
      person=first_place(frames, cast, person),
    )  # fmt: skip
    _, after = test_clips.read_video(out)
    found = tally(frames, cast, before, after, person)
    print(
      f'\n{name}, person {person}: {found.edited} of {found.due} edited, '
      f'{found.strays} strays; {report["people"]}'
    )
    assert found.edited >= 0.99 * found.due > 0
    assert found.strays == 0
    for shot, places in found.places.items():
      # A mouth that came from the shot before would lie far from its own.
      away = np.abs(np.array(places) - np.median(places, 0)).max()
      assert away < 10, (shot, away)
