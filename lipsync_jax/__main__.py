"""The command `lipsync`: one file, or a subcommand as the first word."""

import importlib
import sys
from collections.abc import Sequence

# First word -> module with `main(argv)`.
COMMANDS = {
  'app': 'lipsync_jax.app.cli',
  'batch': 'lipsync_jax.batch.cli',
  'serve': 'lipsync_jax.app.serve_cli',
}


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command of the first word, or `lipsync_jax.sync`."""
  words = list(sys.argv[1:] if argv is None else argv)
  if words and words[0] in COMMANDS:
    return importlib.import_module(COMMANDS[words[0]]).main(words[1:])
  from lipsync_jax import sync

  return sync.main(words)


if __name__ == '__main__':
  sys.exit(main())
