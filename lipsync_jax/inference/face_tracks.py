"""The first pass: every speaker's face in every frame.

Frames after the end of the sound are not searched.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from lipsync_jax.common.threads import prefetch
from lipsync_jax.faces import (
  analysis_cache,
  detector,
  identity,
  landmarks,
  mesh_trajectory,
  tracker,
  tracks,
  trajectory,
)
from lipsync_jax.faces.crop import crop_bounds, crop_from_box
from lipsync_jax.inference import active_speaker
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import decoder, yuv
from lipsync_jax.media.memory import MemoryVideo
from lipsync_jax.media.types import Frame, Video

DETECTION_SIDE = 640  # pixels, longest side of the frame for detection
WAV2LIP_PADS = (0, 10, 0, 0)  # top bottom left right pixels (spec 7.1)


def locate_speakers(
  options: SyncOptions,
  video: Video,
  who: list[str],
  duration: Fraction,
  progress: Callable,
  networks: NetworkCache,
):
  """Find the faces of the speakers.

  Args:
    options: of the job.
    video: opened.
    who: speakers as `identity.choose_person` takes them.
    duration: seconds of sound.
    progress: (label, total) -> progress bar, see `report.progress_bar`.
    networks: have the detector and the articulator.

  Returns:
    Times of the source frames, a `FaceTrajectory` for each speaker, and the
    report's facts on people.

  Raises:
    FaceError: no face, or one person is named twice.
  """
  keep = options.when_video_longer != 'cut' and options.preview is None
  until = None if keep else duration
  if options.box:
    return box_trajectory(options, video, until, progress)
  analysis, times = analyze_video(
    video, until, progress, networks.open_detector
  )
  people = identity.group_people(analysis)
  who, note = list(who), None
  if 'auto' in who and people and not options.compat:
    person, note = active_speaker.default_person(
      video, analysis, people, networks
    )
    number = next(i for i, p in enumerate(people) if p is person)
    who = [str(number) if spec == 'auto' else spec for spec in who]
  chosen = [identity.choose_person(people, spec) for spec in who]
  numbers = [next(i for i, p in enumerate(people) if p is c) for c in chosen]
  if len(set(numbers)) < len(numbers):
    raise landmarks.FaceError(
      f'expected a voice each for different people, found {", ".join(who)} to '
      f'be person {numbers}; in this video: {identity.describe_people(people)}'
    )
  facts = {
    'people': identity.describe_people(people),
    'speakers': [
      {'person': number, 'tracks': track_times(analysis, person)}
      for number, person in zip(numbers, chosen, strict=True)
    ],
    'cuts': [float(analysis.times[c]) for c in analysis.cuts],
    **({'note': note} if note else {}),
  }
  build = wav2lip_trajectory if options.compat else speaker_trajectory
  return times, [build(analysis, person, options) for person in chosen], facts


def track_times(
  analysis: tracks.Analysis, person: identity.Person
) -> list[tuple[float, float]]:
  """First and last second of each of a person's tracks."""
  return [
    (float(analysis.times[t.frames[0]]), float(analysis.times[t.frames[-1]]))
    for t in person.tracks
  ]


def speaker_trajectory(
  analysis: tracks.Analysis, person: identity.Person, options: SyncOptions
) -> trajectory.FaceTrajectory:
  """The trajectory of one person, with the mesh if the renderer needs it."""
  face = trajectory.build_trajectory(
    analysis, person, options.pads, not options.nosmooth
  )
  if not options.uses_mesh:
    return face
  found = mesh_trajectory.build_mesh_trajectory(analysis, person, face)
  return dataclasses.replace(face, mesh=found)


def frames_until(video: Video, until: Fraction | None) -> Iterator[Frame]:
  """The frames up to `until` seconds; all if None."""
  with contextlib.closing(decoder.read_frames(video)) as frames:
    for frame in frames:
      if frame.index and until is not None and frame.time > until:
        return
      yield frame
      if video.still:
        return


def detection_size(video: Video) -> tuple[int, int]:
  """(width, height) of the frame scaled to at most DETECTION_SIDE."""
  scale = min(1.0, DETECTION_SIDE / max(video.width, video.height))
  return round(video.width * scale), round(video.height * scale)


def landmarker_size(
  box: tuple[int, int, int, int],
) -> tuple[int, int] | None:
  """(width, height) of a box scaled to the landmarker's input.

  Returns:
    None if the box is not larger.
  """
  w, h = box[2] - box[0], box[3] - box[1]
  scale = detector.LANDMARKER_SIZE / max(w, h)
  if scale >= 1:
    return None
  return max(round(w * scale), 1), max(round(h * scale), 1)


def analyze_video(
  video: Video,
  until: Fraction | None,
  progress: Callable,
  open_detector: Callable = detector.FaceDetector,
) -> tuple[tracks.Analysis, list[Fraction]]:
  """Every face of every frame, and the frames' times.

  The analysis comes from the cache if the video was analyzed before.
  """
  shape, size = (video.height, video.width), detection_size(video)

  def stream(tick):
    for frame in frames_until(video, until):

      def fetch(box, frame=frame):
        return yuv.to_rgb(video, frame, box, landmarker_size(box))

      small = yuv.to_rgb(video, frame, size=size)
      yield frame.index, float(frame.time), small, fetch
      tick()

  def compute() -> tracks.Analysis:
    total = expected_frames(video, until)
    with (
      progress('finding faces', total) as tick,
      open_detector() as finder,
      contextlib.closing(prefetch(stream(tick), 4)) as frames,
    ):
      return tracker.track_faces(frames, shape, finder)

  view = f'{video.view} still={video.still}'
  if isinstance(video, MemoryVideo):
    key = analysis_cache.view_key(video.content_hash(), view)
  else:
    key = analysis_cache.content_key(video.path, view)
  analysis = analysis_cache.cached_analysis(
    key, None if until is None else float(until), compute
  )
  return analysis, snap_to_ticks(analysis.times, video.tick)


def expected_frames(video: Video, until: Fraction | None) -> int | None:
  """Frames up to `until` by the file's header; None if unknown."""
  if video.still:
    return 1
  lengths = [t for t in (video.duration, until) if t]
  return round(min(lengths) * video.rate) if video.duration else None


def snap_to_ticks(
  times: Float[np.ndarray, 'f'], tick: Fraction
) -> list[Fraction]:
  """The file's exact time stamps: multiples of its tick."""
  return [round(time / float(tick)) * tick for time in times.tolist()]


def box_trajectory(
  options: SyncOptions,
  video: Video,
  until: Fraction | None,
  progress: Callable,
):
  """`locate_speakers` for a fixed face box; every frame is read."""
  top, bottom, left, right = options.box
  crop = crop_from_box((left, top, right, bottom))
  crop_bounds(crop, (video.height, video.width))  # raises if outside
  times = []
  with progress('reading', expected_frames(video, until)) as tick:
    for frame in frames_until(video, until):
      times.append(frame.time)
      tick()
  count = len(times)
  row = np.array([crop.cx, crop.cy, crop.w, crop.h, crop.roll])
  fixed = constant_trajectory(np.tile(row, (count, 1)), np.ones(count, bool))
  facts = {'people': 'a box given by hand', 'speakers': [{'person': 0}]}
  return times, [fixed], facts


def constant_trajectory(
  crops: Float[np.ndarray, 'f 5'], present: np.ndarray
) -> trajectory.FaceTrajectory:
  """A trajectory without landmarks."""
  count = len(crops)
  return trajectory.FaceTrajectory(
    present=present,
    filled=np.zeros(count, bool),
    crops=crops,
    points=np.full((count, len(landmarks.LANDMARK_IDS), 2), np.nan, np.float32),
    spans=np.array([[0, count]], np.int64),
  )


def wav2lip_trajectory(
  analysis: tracks.Analysis, person: identity.Person, options: SyncOptions
) -> trajectory.FaceTrajectory:
  """Wav2Lip's boxes: padded, cut at the frame, smoothed forwards (spec 7.3).

  Differs from Wav2Lip: a frame without the face is written as it is instead
  of ending the job, and the boxes are those of one person.
  """
  height, width = analysis.frame
  boxes = np.zeros((len(analysis.times), 4))
  present = np.zeros(len(boxes), bool)
  for track in person.tracks:
    boxes[track.frames] = np.trunc(track.boxes)
    present[track.frames] = True
  top, bottom, left, right = options.pads or WAV2LIP_PADS
  boxes += np.array([-left, -top, right, bottom])
  limits = np.array([width, height, width, height])
  boxes = np.clip(boxes, 0, limits).astype(np.int64)
  if not options.nosmooth:
    boxes[present] = trajectory.smooth_like_wav2lip(boxes[present])
  x0, y0, x1, y1 = boxes.T.astype(np.float64)
  crops = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, 0 * x0], -1)
  crops[~present] = np.nan
  others = trajectory.frames_of_others(analysis, present)
  return dataclasses.replace(constant_trajectory(crops, present), others=others)
