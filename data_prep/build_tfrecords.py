"""Build training shards from LRS2, or from any folder of talking videos.

  python data_prep/build_tfrecords.py --layout=lrs2 \
    --data_root=/data/mvlrs_v1 --filelists=/data --out=/data/lrs2_clips

Every clip is in a shard, or in `rejected.jsonl` with one reason. An interrupted
build continues where it stopped. Beam's own flags (`--runner=DataflowRunner …`)
are passed on. See `docs/data.md`.
"""

import argparse
import logging
import os
import pathlib
import sys
import time

ROOT = str(pathlib.Path(__file__).resolve().parents[1])
# Renamed flags of earlier versions, and their new names.
RENAMED = {
  '--val': '--val_fraction',
  '--test': '--test_fraction',
  '--largest': '--max_image_side',
  '--shortest': '--min_frames',
  '--longest': '--max_frames',
  '--smallest': '--min_face_width',
  '--most_offset': '--max_offset_frames',
  '--confidence': '--min_confidence',
}


def build_parser() -> argparse.ArgumentParser:
  """The parser; unknown flags are Beam's."""
  parser = argparse.ArgumentParser(
    prog='build_tfrecords.py',
    description='Turn LRS2, or any folder of talking videos, into shards.',
    allow_abbrev=False,
  )
  add = parser.add_argument
  add(
    '--layout',
    default='lrs2',
    choices=('lrs2', 'lrs2_preprocessed', 'lrs3', 'videos'),
    help='of --data_root',
  )
  add('--data_root', required=True, help='mvlrs_v1, or the folder of videos')
  add('--filelists', help='folder of train.txt, val.txt, test.txt')
  add('--out', required=True, help='folder of the data set')
  add('--workers', type=int, default=os.cpu_count() or 1, help='processes')
  add('--syncnet', default='', help='weights that measure A/V offsets')
  add('--cache', help='folder of finished stages; default: OUT/cache')
  add('--limit', type=int, help='only the first files of every split')
  add('--val_fraction', type=float, default=0.02, help='without lists')
  add('--test_fraction', type=float, default=0.02, help='without lists')
  add(
    '--split_by',
    default='video',
    choices=('speaker', 'video'),
    help='videos only: unit of the splits',
  )
  _add_limits(add)
  return parser


def _add_limits(add) -> None:
  add('--margin', type=float, default=0.15, help='around the face, relative')
  add('--quality', type=int, default=95, help='of the JPEGs')
  add('--max_image_side', type=int, default=512, help='pixels of a JPEG')
  add('--min_frames', type=int, default=14, help='of a clip')
  add('--max_frames', type=int, default=250, help='of a clip')
  add('--min_face_width', type=float, default=40.0, help='pixels')
  add('--max_offset_frames', type=int, default=6, help='that are corrected')
  add('--min_confidence', type=float, default=0.0, help='of the offset')
  add('--shard_mb', type=int, default=256, help='size of a shard')


def with_new_names(argv: list[str]) -> list[str]:
  """The command line with the new names of renamed flags; prints each."""
  from lipsync_jax.common import cli

  return cli.with_new_names(argv, RENAMED)


def main(argv: list[str] | None = None) -> int:
  """Run a build; 0 if it accepted a clip, 1 if not, 2 on an error."""
  if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
  words = with_new_names(sys.argv[1:] if argv is None else argv)
  flags, beam_flags = build_parser().parse_known_args(words)
  logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
  for name in ('apache_beam', 'absl', 'root'):
    logging.getLogger(name).setLevel(logging.WARNING)
  # Beam's worker processes import the modules of the pipeline.
  folders = [ROOT, *filter(None, [os.environ.get('PYTHONPATH')])]
  os.environ['PYTHONPATH'] = os.pathsep.join(folders)
  from data_prep import av_offset, extract, layouts, process

  settings = extract.Settings(
    margin=flags.margin,
    quality=flags.quality,
    max_image_side=flags.max_image_side,
    min_frames=flags.min_frames,
    max_frames=flags.max_frames,
    min_face_width=flags.min_face_width,
  )
  limits = av_offset.Limits(flags.max_offset_frames, flags.min_confidence)
  cache = flags.cache or os.path.join(flags.out, 'cache')
  task = process.Task(cache, settings, flags.syncnet, limits)
  try:
    jobs = layouts.find_jobs(
      flags.layout,
      flags.data_root,
      flags.filelists,
      (flags.val_fraction, flags.test_fraction),
      flags.split_by,
    )
    return build(first_jobs(jobs, flags.limit), task, flags, beam_flags)
  except ValueError as error:  # every error of ours is one line
    print(f'build_tfrecords.py: {error}', file=sys.stderr)
    return 2


def first_jobs(jobs: list, limit: int | None) -> list:
  """The first jobs of every split; all without a limit."""
  if limit is None:
    return jobs
  counts: dict[str, int] = {}
  out = []
  for job in jobs:
    counts[job.split] = counts.get(job.split, 0) + 1
    if counts[job.split] <= limit:
      out.append(job)
  return out


def build(
  jobs: list, task, flags: argparse.Namespace, beam_flags: list[str]
) -> int:
  """Prepare clips, write shards, and print a summary."""
  from data_prep import layouts, pipeline, process, report
  from lipsync_jax import audio

  start = time.monotonic()
  speakers = layouts.speakers_in_several_splits(jobs)
  if speakers:
    logging.warning(
      '%d speakers are in several splits of the lists: %s …',
      *(len(speakers), ', '.join(speakers[:3])),
    )
  options = pipeline.options(beam_flags, flags.workers)
  rows = pipeline.prepare(jobs, task, task.cache, options)
  prepared = time.monotonic() - start
  process.save(
    os.path.join(flags.out, 'rejected.jsonl'), pipeline.rejected(rows)
  )
  table = pipeline.counts(rows)
  accepted = [row for row in rows if not row['reason']]
  if accepted:
    pipeline.write(rows, flags.out, options, flags.shard_mb * 2**20)
  page = report.render_page(rows, table)
  process.save(os.path.join(flags.out, 'stats.html'), page.encode())
  seconds = sum(row['frames'] for row in accepted) / audio.FPS
  for split, part in table.items():
    parts = ', '.join(f'{n} {name}' for name, n in part.items())
    print(f'{split}: {parts}')
  print(
    f'{seconds / 3600:.2f} hours in {flags.out}, {prepared:.0f} s to prepare '
    f'({seconds / max(prepared, 1e-9):.1f} s of video a second), '
    f'{time.monotonic() - start:.0f} s in all'
  )
  return 0 if accepted else 1


if __name__ == '__main__':
  sys.exit(main())
