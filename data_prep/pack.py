"""Pack shards for a narrow wire, and unpack them where they are trained.

  python data_prep/pack.py pack SHARDS PACK --pieces=2
  python data_prep/pack.py unpack PACK SHARDS

A piece holds the crops of its clips as one HEVC video, their sound as one
Opus stream, and their names and lengths. It is some forty times smaller
than the shards and made for one size of network: margins suffice for the
default augmentation, of the landmarks only the opening of the lips is kept,
sound is not to the bit.

Alphabet: `n` frames, `s` side of a stored crop in pixels.
"""

import argparse
import concurrent.futures
import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from lipsync_jax import audio
from lipsync_jax.data import augmentation, device_dataset, tfrecord
from lipsync_jax.data.clip import (
  DATASET_NAME,
  NUM_LANDMARKS,
  Clip,
  ClipDataset,
  write_clips,
)
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.mesh import NUM_POINTS

SPLITS = ('train', 'val', 'test')
RATE = audio.SAMPLE_RATE
REST = audio.SAMPLES_PER_FRAME  # samples of silence between two clips
JPEG = 95


def pack(folder: str, out: str, size: int, crf: int, pieces: int) -> None:
  """Write every split of `folder` as `pieces` pieces (val, test: one)."""
  margin = augmentation.Augmentation().margin(size)
  margin += margin % 2  # even sides for the codec
  pathlib.Path(out).mkdir(parents=True, exist_ok=True)
  for split in SPLITS:
    source = ClipDataset(folder, split)
    count = pieces if split == 'train' else 1
    for i in range(count):
      path = pathlib.Path(out) / f'{split}-{i:02d}-of-{count:02d}'
      numbers = range(i, len(source), count)
      write_piece(path, source, numbers, size, margin, crf)


def write_piece(path, source, numbers, size, margin, crf) -> None:
  """One video, one sound and one table."""
  rows, openings = [], []
  with (
    whole(path.with_suffix('.mp4')) as film,
    whole(path.with_suffix('.ogg')) as tape,
  ):
    paint = encoder(film, 'libx265', size + 2 * margin, crf)
    speak = recorder(tape)
    for number in numbers:
      clip = source[number]
      for rgb in device_dataset.stored_crops(clip, size, margin):
        paint(rgb)
      speak(np.pad(clip.wave, (0, REST)))
      facts = clip.key, len(clip.frames), len(clip.wave)
      rows.append((*facts, clip.offset, clip.confidence))
      openings.append(landmarks.lip_openings(clip.points, clip.crops))
    paint(None)
    speak(None)
  names = ('key', 'frames', 'samples', 'offset', 'confidence')
  table = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
  table['openings'] = np.concatenate(openings).astype(np.float16)
  np.savez_compressed(path.with_suffix('.npz'), size=size, **table)
  used = sum(path.with_suffix(s).stat().st_size for s in ('.mp4', '.ogg'))
  print(f'{path.name}: {len(rows)} clips, {used / 2**20:.1f} MiB', flush=True)


def whole(path):
  """An output container."""
  import av

  return av.open(str(path), 'w')


def encoder(file, codec: str, side: int, crf: int):
  """A function that takes RGB frames, and None at the end."""
  import av

  stream = file.add_stream(codec, rate=audio.FPS)
  stream.width = stream.height = side
  stream.pix_fmt = 'yuv444p'  # red lips on 57 pixels would blur
  stream.options = {
    'crf': str(crf),
    'preset': 'medium',
    'x265-params': 'log-level=error',
  }

  def take(rgb):
    frame = None if rgb is None else av.VideoFrame.from_ndarray(rgb)
    file.mux(stream.encode(frame))

  return take


def recorder(file):
  """A function that takes int16 samples, and None at the end."""
  import av

  stream = file.add_stream('libopus', rate=RATE, layout='mono')
  stream.codec_context.bit_rate = 40_000
  fifo, count = av.AudioFifo(), 0

  def take(samples):
    nonlocal count
    if samples is not None:
      frame = av.AudioFrame.from_ndarray(samples[None], 's16', 'mono')
      frame.sample_rate, frame.pts = RATE, count
      count += samples.size
      fifo.write(frame)
    size = stream.codec_context.frame_size or 320
    while part := fifo.read(size, partial=samples is None):
      file.mux(stream.encode(part))
    if samples is None:
      file.mux(stream.encode(None))

  return take


def unpack(folder: str, out: str) -> None:
  """Write shards of all pieces in `folder`, one shard a piece."""
  pathlib.Path(out).mkdir(parents=True, exist_ok=True)
  paths = sorted(pathlib.Path(folder).glob('*.npz'))
  if not paths:
    raise SystemExit(f'pack: expected pieces in {folder}, found none')
  # HEVC decodes on one core here, so pieces go side by side.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for name in pool.map(functools.partial(unpack_piece, out=out), paths):
      print(name, flush=True)


def unpack_piece(path: pathlib.Path, out: str) -> str:
  """One shard from one piece."""
  split, number, _, count = path.stem.split('-')
  name = tfrecord.shard_name(DATASET_NAME, split, int(number), int(count))
  write_clips(pathlib.Path(out) / name, clips_of(path))
  return name


def clips_of(path: pathlib.Path):
  """The clips of a piece, in order."""
  import av

  with np.load(path, allow_pickle=False) as table:
    size, rows = int(table['size']), {k: table[k] for k in table.files}
  wave, at, first = sound_of(path.with_suffix('.ogg')), 0, 0
  with av.open(str(path.with_suffix('.mp4'))) as film:
    frames = film.decode(video=0)
    for i, key in enumerate(rows['key'].tolist()):
      count, samples = int(rows['frames'][i]), int(rows['samples'][i])
      pictures = [next(frames).to_ndarray(format='rgb24') for _ in range(count)]
      yield clip_of(
        key,
        pictures,
        wave[at : at + samples],
        rows['openings'][first : first + count],
        size,
        (float(rows['offset'][i]), float(rows['confidence'][i])),
      )
      at, first = at + samples + REST, first + count


def clip_of(key, pictures, wave, openings, size, measured) -> Clip:
  """A clip whose pictures are crops already."""
  side, count = len(pictures[0]), len(pictures)
  edge = (side - size) / 2
  crop = np.float32([side / 2, side / 2, size, size, 0])
  box = np.float32([edge, edge, side - edge, side - edge])
  points = np.full((count, NUM_LANDMARKS, 2), np.nan, np.float32)
  points[:, [landmarks.UPPER_LIP, landmarks.LOWER_LIP]] = side / 2
  points[:, landmarks.LOWER_LIP, 1] += openings * np.float32(size)
  return Clip(
    key=key,
    speaker=key.rpartition('/')[0],
    frames=tuple(jpeg(rgb) for rgb in pictures),
    crops=np.tile(crop, (count, 1)),
    points=points,
    boxes=np.tile(box, (count, 1)),
    mesh=np.zeros((0, NUM_POINTS, 3), np.int16),  # would not fit
    mel=audio.log_mel(audio.int16_to_float(wave)),
    wave=wave,
    offset=measured[0],
    confidence=measured[1],
    source='packed',
  )


def jpeg(rgb: np.ndarray) -> bytes:
  import cv2

  bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
  return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG])[
    1
  ].tobytes()


def sound_of(path: pathlib.Path) -> np.ndarray:
  """All samples of an Opus stream, int16 at 16 kHz."""
  from lipsync_jax.media import audio_reader

  found = audio_reader.probe_audio(path)
  blocks = audio.resample_blocks(found.rate, audio_reader.read_audio(found))
  wave = np.concatenate(list(blocks))
  return audio.float_to_int16(np.clip(wave, -1, 1))


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='pack.py', description=__doc__.partition('\n')[0]
  )
  parser.add_argument('task', choices=('pack', 'unpack'))
  parser.add_argument('source')
  parser.add_argument('out')
  parser.add_argument('--size', type=int, default=96, help='of the network')
  parser.add_argument('--crf', type=int, default=24, help='quality of HEVC')
  parser.add_argument('--pieces', type=int, default=2, help='of train')
  flags = parser.parse_args(argv)
  if flags.task == 'pack':
    pack(flags.source, flags.out, flags.size, flags.crf, flags.pieces)
  else:
    unpack(flags.source, flags.out)
  return 0


if __name__ == '__main__':
  sys.exit(main())
