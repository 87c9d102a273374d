"""Numbers and pictures of a run, as JSON lines and TensorBoard events.

`workdir/metrics.jsonl` has one object a line with 'step', 'kind' and numbers;
it can be read during the run. Pictures are PNG files in `workdir/strips/`. Only
process 0 writes.
"""

import json
import math
import pathlib
import time

import numpy as np
from jaxtyping import Float, UInt8

from lipsync_jax.common import atomic_file

ImageGrid = UInt8[np.ndarray, 'rows columns 3']


def sample_grid(
  face: Float[np.ndarray, 'b t h w 6'],
  made: Float[np.ndarray, 'b t h w 3'],
  true: Float[np.ndarray, 'b t h w 3'],
) -> ImageGrid:
  """Rows of reference | masked | generated | ground truth, one for each frame.

  Args:
    face, made, true: of `batches.to_model_inputs` and the generator, in [0, 1].
  """
  parts = [face[..., 3:], face[..., :3], made, true]
  wide = np.concatenate(parts, -2)  # [b, t, h, 4*w, 3]
  tall = wide.reshape(-1, *wide.shape[-2:])  # [b*t*h, 4*w, 3]
  return np.round(np.clip(tall, 0, 1) * 255).astype(np.uint8)


class MetricWriter:
  """Writer of one run; a resumed run continues the same file.

  Lines after the last checkpoint of an interrupted run are dropped, so that
  every step occurs once.
  """

  def __init__(self, workdir, start: int = 0, active: bool = True):
    """Args:
    workdir: of the run.
    start: step from which the run continues.
    active: whether to write.
    """
    self.folder = pathlib.Path(workdir)
    self._lines = self._board = None
    if not active:
      return
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self.folder / 'metrics.jsonl'
    kept = [line for line in _whole_lines(path) if line['step'] <= start]
    text = ''.join(f'{json.dumps(line)}\n' for line in kept)
    atomic_file.write_text(path, text)
    self._lines = path.open('a', encoding='utf-8')
    self._board = open_tensorboard(self.folder / 'tensorboard', start)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for file in (self._lines, self._board):
      if file:
        file.close()

  def write(self, step: int, kind: str, numbers: dict[str, float]) -> None:
    """Write one line; `kind` is 'train' or 'validation'."""
    if not self._lines:
      return
    values = {k: _round_value(v) for k, v in numbers.items()}
    line = {'step': step, 'kind': kind} | values
    self._lines.write(f'{json.dumps(line)}\n')
    self._lines.flush()
    if self._board:
      from tensorboardX import summary

      for name, value in numbers.items():
        self._event(step, summary=summary.scalar(f'{kind}/{name}', value))
      self._board.flush()

  def picture(self, step: int, name: str, rgb: ImageGrid) -> None:
    """Write a picture as `strips/<step>-<name>.png`."""
    if not self._lines:
      return
    import cv2

    folder = self.folder / 'strips'
    folder.mkdir(exist_ok=True)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.png', bgr)
    (folder / f'{step:08d}-{name}.png').write_bytes(data.tobytes())
    if self._board:
      from tensorboardX import summary

      image = summary.image(name, rgb, dataformats='HWC')
      self._event(step, summary=image)

  def _event(self, step: int, **what) -> None:
    from tensorboardX.proto.event_pb2 import Event

    event = Event(step=step, wall_time=time.time(), **what)
    self._board.write_event(event)


def open_tensorboard(folder: pathlib.Path, start: int):
  """An open TensorBoard event file; None if that is not installed.

  It is written without tensorboardX's thread, which a full disk would end, and
  then the run would wait for it without end.
  """
  try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
  except ImportError:  # the JSON lines suffice
    return None
  folder.mkdir(exist_ok=True)
  file = EventsWriter(str(folder / 'events'))
  # Events of an interrupted run after `start` are hidden.
  began = SessionLog(status=SessionLog.START)
  file.write_event(Event(step=start + 1, session_log=began))
  file.flush()
  return file


def _round_value(value: float) -> float | str:
  """Seven digits; None for values that JSON cannot hold."""
  value = float(value)
  return float(f'{value:.7g}') if math.isfinite(value) else str(value)


def _whole_lines(path: pathlib.Path) -> list[dict]:
  """The complete lines of a file."""
  if not path.exists():
    return []
  found = []
  for text in path.read_text(encoding='utf-8').splitlines():
    try:
      found.append(json.loads(text))
    except json.JSONDecodeError:
      break
  return found


def read_metrics(workdir, kind: str = 'train') -> list[dict]:
  """All lines of a kind, in order."""
  lines = _whole_lines(pathlib.Path(workdir) / 'metrics.jsonl')
  return [line for line in lines if line['kind'] == kind]
