"""Score lip-sync beside the ground truth.

python -m lipsync_jax.evaluate --shards SHARDS --out results/evaluation
"""

import os
import sys
from collections.abc import Sequence

from lipsync_jax.common.cli import quiet_native_logs, run_command


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  quiet_native_logs()  # before TensorFlow Lite is loaded
  from lipsync_jax.evaluation import cli

  args = cli.parse_arguments(sys.argv[1:] if argv is None else argv)

  def evaluate() -> str:
    from lipsync_jax.evaluation import runner

    runner.run_evaluation(args)
    return os.path.join(args.out, 'report.html')

  return run_command(
    evaluate, 'interrupted; the same command goes on from here'
  )


if __name__ == '__main__':
  sys.exit(main())
