"""The command `lipsync`: one file, or a subcommand as the first word."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command of the first word, or `lipsync_jax.sync`."""
  words = list(sys.argv[1:] if argv is None else argv)
  command = words[0] if words else ''
  if command == 'app':
    from lipsync_jax.app import cli

    return cli.main(words[1:])
  if command == 'batch':
    from lipsync_jax.batch import cli

    return cli.main(words[1:])
  if command == 'doctor':
    from lipsync_jax.app import doctor

    return doctor.main(words[1:])
  if command == 'finetune':
    from lipsync_jax.finetuning import cli

    return cli.main(words[1:])
  if command == 'serve':
    from lipsync_jax.app import serve_cli

    return serve_cli.main(words[1:])
  if command == 'verify':
    from lipsync_jax.app import verify_cli

    return verify_cli.main(words[1:])
  if command == 'worker':
    from lipsync_jax.app import worker_cli

    return worker_cli.main(words[1:])
  from lipsync_jax import sync

  return sync.main(words)


if __name__ == '__main__':
  sys.exit(main())
