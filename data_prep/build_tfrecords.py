"""Build training shards from LRS2, or from any folder of talking videos.

  python data_prep/build_tfrecords.py --layout=lrs2 \
    --data_root=/data/mvlrs_v1 --filelists=/data --out=/data/lrs2_clips

Every clip is accounted for: kept, or in `rejected.jsonl` with one reason.
Killed and started again, it does only what is missing. Beam's own flags
(`--runner=DataflowRunner …`) are passed on. See `README.md`.
"""

import argparse
import logging
import os
import pathlib
import sys
import time

ROOT = str(pathlib.Path(__file__).resolve().parents[1])


def parser() -> argparse.ArgumentParser:
  """The flags; those it does not know are Beam's."""
  top = argparse.ArgumentParser(
    prog='build_tfrecords.py',
    description='Turn LRS2, or any folder of talking videos, into shards.',
    allow_abbrev=False,
  )
  add = top.add_argument
  add(
    '--layout',
    default='lrs2',
    choices=('lrs2', 'lrs2_preprocessed', 'lrs3', 'videos'),
    help='how --data_root is laid out',
  )
  add('--data_root', required=True, help='mvlrs_v1, or the folder of videos')
  add('--filelists', help='folder of train.txt, val.txt, test.txt')
  add('--out', required=True, help='folder of the data set')
  add('--workers', type=int, default=os.cpu_count() or 1, help='processes')
  add('--syncnet', default='', help='weights; without, no offset is measured')
  add('--cache', help='folder for finished stages; default: OUT/cache')
  add('--limit', type=int, help='only the first clips of every split')
  add('--val', type=float, default=0.02, help='share, where there is no list')
  add('--test', type=float, default=0.02, help='likewise')
  add(
    '--split_by',
    default='video',
    choices=('speaker', 'video'),
    help='videos only: what may not be in two splits',
  )
  add('--margin', type=float, default=0.15, help='round the face, of its sides')
  add('--quality', type=int, default=95, help='of the JPEGs')
  add('--largest', type=int, default=512, help='pixels, side of a JPEG')
  add('--shortest', type=int, default=14, help='frames of a clip')
  add('--longest', type=int, default=250, help='frames of a clip')
  add('--smallest', type=float, default=40.0, help='pixels, width of a face')
  add('--most_offset', type=int, default=6, help='frames that are corrected')
  add('--confidence', type=float, default=0.0, help="least, on SyncNet's scale")
  add('--shard_mb', type=int, default=256, help='size of a shard')
  return top


def main(argv: list[str] | None = None) -> int:
  """Run a build; 0 if it kept a clip, 1 if not, 2 on an error."""
  flags, beams = parser().parse_known_args(argv)
  logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
  for name in ('apache_beam', 'absl', 'root'):
    logging.getLogger(name).setLevel(logging.WARNING)
  # Beam's worker processes import what the pipeline names.
  places = [ROOT, *filter(None, [os.environ.get('PYTHONPATH')])]
  os.environ['PYTHONPATH'] = os.pathsep.join(places)
  if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
  from data_prep import av_offset, extract, layouts, process

  settings = extract.Settings(
    margin=flags.margin,
    quality=flags.quality,
    largest=flags.largest,
    shortest=flags.shortest,
    longest=flags.longest,
    smallest=flags.smallest,
  )
  limits = av_offset.Limits(flags.most_offset, flags.confidence)
  cache = flags.cache or os.path.join(flags.out, 'cache')
  task = process.Task(cache, settings, flags.syncnet, limits)
  try:
    jobs = layouts.find(
      flags.layout,
      flags.data_root,
      flags.filelists,
      (flags.val, flags.test),
      flags.split_by,
    )
    return build(limited(jobs, flags.limit), task, flags, beams)
  except ValueError as error:  # each room's own, in one line
    print(f'build_tfrecords.py: {error}', file=sys.stderr)
    return 2


def limited(jobs: list, most: int | None) -> list:
  """The first jobs of every split, to try a build."""
  if most is None:
    return jobs
  seen: dict[str, int] = {}
  out = []
  for job in jobs:
    seen[job.split] = seen.get(job.split, 0) + 1
    if seen[job.split] <= most:
      out.append(job)
  return out


def build(jobs: list, task, flags: argparse.Namespace, beams: list[str]) -> int:
  """Prepare, write, and say what became of it."""
  from data_prep import layouts, pipeline, process, report
  from lipsync_jax import audio

  start = time.monotonic()
  twice = layouts.straddling(jobs)
  if twice:
    logging.warning(
      '%d speakers are in several splits of the lists: %s …',
      *(len(twice), ', '.join(twice[:3])),
    )
  given = pipeline.options(beams, flags.workers)
  rows = pipeline.prepare(jobs, task, task.cache, given)
  made = time.monotonic() - start
  process.save(
    os.path.join(flags.out, 'rejected.jsonl'), pipeline.rejected(rows)
  )
  table = pipeline.counts(rows)
  kept = [row for row in rows if not row['reason']]
  if kept:
    size = flags.shard_mb * 2**20
    pipeline.write(rows, flags.out, given, size)
  page = report.page(rows, table)
  process.save(os.path.join(flags.out, 'stats.html'), page.encode())
  seconds = sum(row['frames'] for row in kept) / audio.FPS
  for split, part in table.items():
    parts = ', '.join(f'{n} {name}' for name, n in part.items())
    print(f'{split}: {parts}')
  print(
    f'{seconds / 3600:.2f} hours in {flags.out}, {made:.0f} s to prepare '
    f'({seconds / max(made, 1e-9):.1f} s of video a second), '
    f'{time.monotonic() - start:.0f} s in all'
  )
  return 0 if kept else 1


if __name__ == '__main__':
  sys.exit(main())
