"""The command `lipsync`: one file, or a subcommand as the first word."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command of the first word, or `lipsync_jax.sync`."""
  words = list(sys.argv[1:] if argv is None else argv)
  match words[:1]:
    case ['batch']:
      from lipsync_jax.batch import cli as command
    case ['app']:
      from lipsync_jax.app import cli as command
    case ['serve']:
      from lipsync_jax.app import serve_cli as command
    case _:
      from lipsync_jax import sync

      return sync.main(words)
  return command.main(words[1:])


if __name__ == '__main__':
  sys.exit(main())
