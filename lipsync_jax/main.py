"""Train the networks of a config.

python -m lipsync_jax.main --config=configs/hq.py --workdir=DIR
"""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from lipsync_jax.training import config_check

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File with get_config(); override by --config.field=value.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of checkpoints and metrics; an existing run is resumed.',
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', None, 'Several processes; default: if a cluster is detected.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'host:port of process 0, if the cluster does not set it.'
)
_PROCESSES = flags.DEFINE_integer('processes', None, 'Number of processes.')
_PROCESS = flags.DEFINE_integer('process', None, 'Number of this process.')

CLUSTERS = ('SLURM_NTASKS', 'TPU_WORKER_HOSTNAMES', 'JAX_COORDINATOR_ADDRESS')


def main(argv: list[str]) -> None:
  """Train; exits with 1 and one line on an error."""
  if len(argv) > 1:
    raise app.UsageError(f'expected flags only, found {argv[1]!r}')
  import jax

  logging.set_verbosity(logging.WARNING)  # Orbax logs every rename
  distributed = _DISTRIBUTED.value
  if distributed is None:
    values = [os.environ.get(name, '') for name in CLUSTERS]
    has_cluster = any(value not in ('', '1') for value in values)
    distributed = bool(_COORDINATOR.value) or has_cluster
  if distributed:
    jax.distributed.initialize(
      _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    )
  from lipsync_jax.refinement.refiner_stage import NETWORKS
  from lipsync_jax.training import train

  try:
    result = train.train_and_evaluate(_CONFIG.value, _WORKDIR.value, NETWORKS)
  except ValueError as error:
    print(f'main: {error}', file=sys.stderr, flush=True)
    if jax.process_count() > 1:
      os._exit(1)  # a normal exit waits for the other processes
    sys.exit(1)
  end = 'stopped; the same command resumes' if result['stopped'] else 'done'
  print(f'step {result["step"]}, {end}: {result["weights"]}')


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
