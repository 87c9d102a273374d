"""Train: python -m lipsync_jax.main --config=configs/hq.py --workdir=DIR"""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from lipsync_jax.training import config_check

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File with get_config(); override by --config.field=value.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of checkpoints and metrics; the same one resumes.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', None, 'Several processes; by default if a cluster is seen.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'host:port of process 0, where nothing tells it.'
)
_PROCESSES = flags.DEFINE_integer('processes', None, 'How many there are.')
_PROCESS = flags.DEFINE_integer('process', None, 'Which one this is.')

CLUSTERS = ('SLURM_NTASKS', 'TPU_WORKER_HOSTNAMES', 'JAX_COORDINATOR_ADDRESS')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'expected flags only, found {argv[1]!r}')
  import jax

  logging.set_verbosity(logging.WARNING)  # Orbax tells every rename
  wanted = _DISTRIBUTED.value
  if wanted is None:
    known = [os.environ.get(name, '') for name in CLUSTERS]
    wanted = bool(_COORDINATOR.value) or any(v not in ('', '1') for v in known)
  if wanted:
    jax.distributed.initialize(
      _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    )
  from lipsync_jax.training import train

  try:
    found = train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
  except ValueError as error:
    print(f'main: {error}', file=sys.stderr, flush=True)
    if jax.process_count() > 1:
      os._exit(1)  # an orderly end would wait for the other processes
    sys.exit(1)
  end = 'stopped; the same command resumes' if found['stopped'] else 'done'
  print(f'step {found["step"]}, {end}: {found["weights"]}')


def run() -> None:
  """Read the flags and train; the entry point of the command line."""
  try:
    config_check.check_flags(sys.argv[1:])
  except ValueError as error:
    print(f'main: {error}', file=sys.stderr)
    sys.exit(1)
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)


if __name__ == '__main__':
  run()
