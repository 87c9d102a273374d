"""Nodes for ComfyUI: a video, or frames, with lips that speak a recording.

ComfyUI's types: IMAGE is float32 [b, h, w, 3] in [0, 1]; AUDIO is
{'waveform': [1, c, n] in [-1, 1], 'sample_rate': samples/s}; VIDEO has
`save_to`. Files between the processes are temporary.
"""

import os
import tempfile
import wave
from fractions import Fraction

import numpy as np
from comfy_api.latest import ComfyExtension, InputImpl, io

from . import worker

KEEP_LENGTH = {'when_audio_longer': 'cut', 'when_video_longer': 'keep'}


def _interrupt_check():
  """ComfyUI's function that raises after its Cancel button."""
  try:
    from comfy.model_management import throw_exception_if_processing_interrupted
  except ImportError:
    return lambda: None
  return throw_exception_if_processing_interrupted


def write_wav(path: str, audio: dict) -> None:
  """Write an AUDIO as 16-bit WAV."""
  samples = np.asarray(audio['waveform'], np.float32)[0]  # [c, n]
  whole = np.round(np.clip(samples, -1, 1) * 32767).astype('<i2')
  with wave.open(path, 'wb') as file:
    file.setnchannels(whole.shape[0])
    file.setsampwidth(2)
    file.setframerate(int(audio['sample_rate']))
    file.writeframes(np.ascontiguousarray(whole.T).tobytes())


def write_frames(path: str, images: np.ndarray, fps: float) -> None:
  """Write frames [b, h, w, 3] as uint8 without loss."""
  import av

  with av.open(path, 'w') as file:
    rate = Fraction(fps).limit_denominator(1001)
    stream = file.add_stream('ffv1', rate=rate)
    stream.height, stream.width = images.shape[1:3]
    stream.pix_fmt = 'bgr0'
    for image in images:
      pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels))
      file.mux(stream.encode(frame.reformat(format='bgr0')))
    file.mux(stream.encode(None))


def read_frames(path: str, like: np.ndarray) -> np.ndarray:
  """The frames of a video in [0, 1], as many as `like` [b, h, w, 3] has.

  Raises:
    RuntimeError: the video has another number of frames.
  """
  import av

  images, count = np.empty(like.shape, np.float32), 0
  with av.open(path) as file:
    for frame in file.decode(video=0):
      if count < len(images):
        images[count] = frame.to_ndarray(format='rgb24') / np.float32(255)
      count += 1
  if count != len(images):
    raise RuntimeError(f'expected {len(images)} frames, found {count}')
  return images


def _options() -> list:
  """The inputs that both nodes have."""
  return [
    io.String.Input('person', default='auto'),
    io.Float.Input('strength', default=1.0, min=0.0, max=2.0, step=0.1),
  ]


class LipSyncVideo(io.ComfyNode):
  """VIDEO and AUDIO -> VIDEO, in a file: memory does not grow with length."""

  @classmethod
  def define_schema(cls):
    """The node's inputs and outputs."""
    return io.Schema(
      node_id='LipSyncJaxVideo',
      display_name='Lip-sync a video (lipsync_jax)',
      category='video/lip-sync',
      inputs=[
        io.Video.Input('video'),
        io.Audio.Input('audio'),
        *_options(),
        io.Combo.Input(
          'when_audio_longer', ['bounce', 'loop', 'hold', 'cut', 'remap']
        ),
        io.Combo.Input('when_video_longer', ['cut', 'keep', 'remap']),
      ],
      outputs=[io.Video.Output()],
    )

  @classmethod
  def execute(
    cls, video, audio, person, strength, when_audio_longer, when_video_longer
  ):
    """Run the worker; the result lies in ComfyUI's temporary folder."""
    number, result = tempfile.mkstemp('.mp4', 'lipsync-', _temp_folder())
    os.close(number)
    options = {
      'person': person,
      'strength': strength,
      'when_audio_longer': when_audio_longer,
      'when_video_longer': when_video_longer,
    }
    try:
      with tempfile.TemporaryDirectory(prefix='lipsync-') as folder:
        face, speech = (os.path.join(folder, n) for n in ('v.mp4', 'a.wav'))
        video.save_to(face)
        write_wav(speech, audio)
        worker.lip_sync(face, speech, result, options, _interrupt_check())
    except BaseException:
      os.remove(result)
      raise
    return io.NodeOutput(InputImpl.VideoFromFile(result))


class LipSyncImages(io.ComfyNode):
  """IMAGE and AUDIO -> IMAGE, exactly as many frames out as in."""

  @classmethod
  def define_schema(cls):
    """The node's inputs and outputs."""
    return io.Schema(
      node_id='LipSyncJaxImages',
      display_name='Lip-sync frames (lipsync_jax)',
      category='video/lip-sync',
      inputs=[
        io.Image.Input('images'),
        io.Audio.Input('audio'),
        io.Float.Input('fps', default=25.0, min=1.0, max=240.0),
        *_options(),
      ],
      outputs=[io.Image.Output()],
    )

  @classmethod
  def execute(cls, images, audio, fps, person, strength):
    """Run the worker; frames after the end of the sound keep their lips."""
    given = np.asarray(images, np.float32)
    with tempfile.TemporaryDirectory(prefix='lipsync-') as folder:
      face, speech, result = (
        os.path.join(folder, n) for n in ('v.mkv', 'a.wav', 'o.mkv')
      )
      write_frames(face, given, fps)
      write_wav(speech, audio)
      options = {'person': person, 'strength': strength, 'crf': 0}
      options |= KEEP_LENGTH
      worker.lip_sync(face, speech, result, options, _interrupt_check())
      found = read_frames(result, given)
    return io.NodeOutput(_like(images, found))


def _like(images, found: np.ndarray):
  """`found` as a tensor if `images` is one."""
  if isinstance(images, np.ndarray):
    return found
  import torch

  return torch.from_numpy(found)


def _temp_folder() -> str | None:
  """ComfyUI's folder of temporary files, which it empties at its start."""
  try:
    import folder_paths
  except ImportError:
    return None
  folder = folder_paths.get_temp_directory()
  os.makedirs(folder, exist_ok=True)
  return folder


class LipSyncExtension(ComfyExtension):
  """What ComfyUI loads."""

  async def get_node_list(self) -> list:
    """The nodes."""
    return [LipSyncVideo, LipSyncImages]


async def comfy_entrypoint() -> LipSyncExtension:
  """Called by ComfyUI."""
  return LipSyncExtension()
