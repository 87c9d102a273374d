"""Face detection by YuNet and landmarks by MediaPipe.

YuNet finds faces on frames of at most 640 pixels. MediaPipe's landmarker reads
478 points of each on a crop around it. MediaPipe's own detector misses faces
under 12 % of the frame's width; on such crops the landmarker missed none of 250
faces of 30 clips, at margins from 1.2 to 3 times the face.

Both models are package data; their SHA-256 is verified.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, UInt8

from lipsync_jax.common.assets import read_asset
from lipsync_jax.faces.landmarks import FaceError

_STDERR_LOCK = threading.Lock()  # one redirection at a time

LANDMARKER_SIZE = 256  # pixels, side of the crop as the landmarker gets it

ASSETS = {
  'face_landmarker.task': (
    '64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff'
  ),
  'face_detection_yunet_2023mar.onnx': (
    '8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4'
  ),
}


def _read_model(name: str) -> bytes:
  return read_asset(name, ASSETS[name], FaceError)


@contextlib.contextmanager
def _silence_native_logs() -> Iterator[None]:
  """Redirect the native libraries' messages away from stderr."""
  with _STDERR_LOCK:
    sys.stderr.flush()
    try:
      stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a process without stderr has no messages
      yield
      return
    try:
      os.dup2(nowhere, 2)
      yield
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
      os.close(nowhere)


class _DeferredPlots(importlib.abc.MetaPathFinder):
  """Finds matplotlib.pyplot and lets it load at its first use.

  MediaPipe imports it for plots, which takes longer than all else it imports.
  """

  def find_spec(self, fullname, path, target=None):
    """The module with a lazy loader; None for other modules."""
    if fullname != 'matplotlib.pyplot':
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None:
      spec.loader = importlib.util.LazyLoader(spec.loader)
    return spec


def _import_mediapipe_vision():
  """MediaPipe's vision tasks, imported without TensorFlow and plots.

  MediaPipe imports TensorFlow if it is installed, which takes 20 seconds. None
  in sys.modules makes that import fail.
  """
  for name in ('GLOG_minloglevel', 'TF_CPP_MIN_LOG_LEVEL'):
    os.environ.setdefault(name, '3')
  hidden = 'tensorflow' not in sys.modules
  if hidden:
    sys.modules['tensorflow'] = None
  deferred = _DeferredPlots()
  sys.meta_path.insert(0, deferred)
  try:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision
  finally:
    sys.meta_path.remove(deferred)
    if hidden:
      sys.modules.pop('tensorflow', None)
  return mediapipe, BaseOptions, vision


class FaceDetector:
  """YuNet and landmarkers; a context manager, safe for threads.

  Several jobs may share one. A landmarker serves one call at a time; there are
  as many as calls that have run side by side.
  """

  def __init__(self, workers: int = 2):
    import cv2

    # Imported in a thread: without PortAudio a module of MediaPipe keeps the
    # exception, its stack frames, and all their objects in memory.
    with _silence_native_logs(), ThreadPoolExecutor(1) as alone:
      self._mediapipe, options, vision = alone.submit(
        _import_mediapipe_vision
      ).result()
      self._options = vision.FaceLandmarkerOptions(
        base_options=options(
          model_asset_buffer=_read_model('face_landmarker.task')
        ),
        num_faces=1,
      )
      self._create = vision.FaceLandmarker.create_from_options
      model = _read_model('face_detection_yunet_2023mar.onnx')
      self._yunet = cv2.FaceDetectorYN.create(
        'onnx', np.frombuffer(model, np.uint8), np.empty(0, np.uint8), (64, 64)
      )
    self._yunet.setScoreThreshold(0.5)
    self._lock = threading.Lock()  # of YuNet, whose input size is a setting
    self._idle: queue.LifoQueue = queue.LifoQueue()  # landmarkers
    self._pool = ThreadPoolExecutor(workers, thread_name_prefix='landmarks')

  def __enter__(self) -> 'Detector':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Free the models. The detector cannot be used afterwards."""
    self._pool.shutdown()
    while not self._idle.empty():
      self._idle.get().close()

  def faces(
    self, rgb: UInt8[np.ndarray, 'h w 3'], scale: float = 1.0
  ) -> tuple[Float32[np.ndarray, 'k 4'], Float32[np.ndarray, 'k']]:
    """Boxes and scores of the faces of a small frame, largest first.

    Args:
      rgb: a frame of at most 640 pixels a side.
      scale: factor of the boxes, full size over small size.
    """
    h, w = rgb.shape[:2]
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    with self._lock:
      self._yunet.setInputSize((w, h))
      _, rows = self._yunet.detect(bgr)
    if rows is None:
      return np.empty((0, 4), np.float32), np.empty(0, np.float32)
    rows = rows[np.argsort(-rows[:, 2] * rows[:, 3], kind='stable')]
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
    return (boxes * scale).astype(np.float32), rows[:, 14].astype(np.float32)

  def submit_faces(
    self, rgb: UInt8[np.ndarray, 'h w 3'], scale: float = 1.0
  ) -> Future:
    """`faces` in a worker thread. One search may run at a time."""
    return self._pool.submit(self.faces, rgb, scale)

  def landmarks(
    self,
    crop: UInt8[np.ndarray, 'h w 3'],
    corner: tuple = (0, 0),
    extent: tuple[int, int] | None = None,
  ) -> Float32[np.ndarray, '478 3'] | None:
    """The 478 points of the face that fills the crop, or None.

    Args:
      crop: the face with 1.2 to 3 times its size around it, of any shape. It is
        scaled and padded to a square of 256 pixels.
      corner: (x, y) of the crop's first pixel in the frame.
      extent: (w, h) of the crop in the frame; None if it is not scaled.

    Returns:
      x, y in pixels of the frame; z in the same unit, negative towards the
      viewer.
    """
    import cv2

    h, w = crop.shape[:2]
    scale = LANDMARKER_SIZE / max(h, w)
    small = (max(round(w * scale), 1), max(round(h * scale), 1))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square = cv2.copyMakeBorder(
      cv2.resize(crop, small, interpolation=way),
      *(0, LANDMARKER_SIZE - small[1], 0, LANDMARKER_SIZE - small[0]),
      cv2.BORDER_REPLICATE,
    )
    image = self._mediapipe.Image(
      image_format=self._mediapipe.ImageFormat.SRGB, data=square
    )
    with self._landmarker() as landmarker:
      detections = landmarker.detect(image).face_landmarks
    if not detections:
      return None
    points = (
      np.array([(p.x, p.y, p.z) for p in detections[0]], np.float32)
      * LANDMARKER_SIZE
    )
    w, h = extent or (w, h)
    unit = np.array([w / small[0], h / small[1], max(h, w) / LANDMARKER_SIZE])
    points = points * unit + np.array([*corner, 0])
    return points.astype(np.float32)

  def map(self, function: Callable, items: list) -> list:
    """`function` of every item, in the worker threads."""
    if len(items) < 2:
      return [function(item) for item in items]
    return list(self._pool.map(function, items))

  @contextlib.contextmanager
  def _landmarker(self) -> Iterator:
    """An idle landmarker, or a new one."""
    try:
      landmarker = self._idle.get_nowait()
    except queue.Empty:
      landmarker = self._open_landmarker()
    try:
      yield landmarker
    finally:
      self._idle.put(landmarker)

  def _open_landmarker(self):
    """A landmarker that has run once: only the first call logs."""
    blank = np.zeros((LANDMARKER_SIZE, LANDMARKER_SIZE, 3), np.uint8)
    with _silence_native_logs():
      landmarker = self._create(self._options)
      landmarker.detect(
        self._mediapipe.Image(
          image_format=self._mediapipe.ImageFormat.SRGB, data=blank
        )
      )
    return landmarker
