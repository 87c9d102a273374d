"""Synthetic training videos, their analyses and clips."""

import av
import numpy as np
from jaxtyping import install_import_hook

from lipsync_jax.faces import tracks
from lipsync_jax.faces.boxes import detector_boxes
from tests.helpers import synthetic_face

with install_import_hook('data_prep', 'tests.helpers.typecheck.typechecked'):
  from data_prep import extract, layouts, wav2lip_cache


def film(path, count=60, size=(320, 240), rate=25):
  """A face-colored ellipse that moves; see `mux`."""
  import cv2

  images = []
  for i in range(count):
    image = np.full((size[1], size[0], 3), 60, np.uint8)
    middle = (round(face_center(i)[0]), round(face_center(i)[1]))
    mouth = (middle[0], middle[1] + 30)
    cv2.ellipse(image, middle, (50, 65), 0, 0, 360, (220, 170, 140), -1)
    cv2.circle(image, mouth, 4 + i % 9, (150, 20, 30), -1)
    images.append(image)
  return mux(path, images, rate)


def mux(path, images, rate=25):
  """Pictures with one click a second over a hum, nearly lossless."""
  with av.open(str(path), 'w') as file:
    video = file.add_stream('libx264', rate=rate, options={'crf': '4'})
    video.width, video.height = images[0].shape[1::-1]
    video.pix_fmt = 'yuv420p'
    sound = file.add_stream('pcm_s16le', rate=16000, layout='mono')
    for image in images:
      file.mux(video.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
    file.mux(video.encode(None))
    wave = np.zeros(len(images) * 16000 // rate, np.int16)
    wave[::16000] = 20000
    wave += (np.arange(len(wave)) % 50 * 40).astype(np.int16)
    block = av.AudioFrame.from_ndarray(wave[None], 's16', 'mono')
    block.sample_rate, block.pts = 16000, 0
    file.mux(sound.encode(block))
    file.mux(sound.encode(None))
  return path


def face_center(i, shift=0.0):
  return 160 + 0.5 * i + shift, 120 + 4 * np.sin(i / 10)


def analysis(count, people=((0, None, 0.0),), size=(240, 320), cuts=()):
  """What detection would say: (first, end, shift) of every person."""
  found = []
  for n, (first, end, shift) in enumerate(people):
    frames = np.arange(first, end or count)
    points = np.stack(
      [synthetic_face.face(*face_center(i, shift), 98.0) for i in frames]
    )
    points = points.astype(np.float32)
    look = np.zeros(620, np.float32)
    look[n] = 1
    boxes = detector_boxes(points).astype(np.float32)
    scores = np.ones(len(frames), np.float32)
    found.append(tracks.Track(frames, boxes, scores, points, look))
  times = np.arange(count) / 25
  return tracks.Analysis(times, size, np.array(cuts, np.int64), tuple(found))


def results(path, seen, single=True, **values):
  job = layouts.Job('ann/one', str(path), 'train', single)
  return list(extract.from_video(job, seen, extract.Settings(**values)))


def decoded(clip, i):
  return wav2lip_cache.decode_jpeg(clip.frames[i])


def pictures(source, count):
  """The first frames of a video, RGB, even sides."""
  with av.open(str(source)) as file:
    images = [
      f.to_ndarray(format='rgb24')
      for f, _ in zip(file.decode(video=0), range(count), strict=False)
    ]
  height, width = (side // 2 * 2 for side in images[0].shape[:2])
  return [np.ascontiguousarray(image[:height, :width]) for image in images]
