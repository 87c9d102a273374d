"""common/cli.py: renamed flags, Ctrl-C and cancellation."""

import signal
import time

from lipsync_jax.common import cancellation, cli
from lipsync_jax.common.errors import Cancelled


def test_renamed_flags_get_new_names_and_one_line_each(capsys):
  words = ('--old=a=b', '--old', '--other', 'old', '--older')
  found = cli.with_new_names(words, {'--old': '--new'})
  assert found == ['--new=a=b', '--new', '--other', 'old', '--older']
  assert words[0] == '--old=a=b'
  assert capsys.readouterr().err == 2 * 'note: --old is now --new\n'


def test_a_swallowed_interrupt_ends_the_work_at_the_next_check(capsys):
  """As in a library that is imported with a bare `except`."""

  def action():
    try:
      signal.raise_signal(signal.SIGINT)
      time.sleep(1)
    except BaseException:
      seen.append('swallowed')
    cancellation.check()
    seen.append('went on')

  seen, before = [], signal.getsignal(signal.SIGINT)
  assert cli.run_command(action) == cli.INTERRUPTED
  assert seen == ['swallowed'] and capsys.readouterr().err == 'interrupted\n'
  assert signal.getsignal(signal.SIGINT) is before
  cancellation.check()  # the scope has ended


def test_a_cancel_that_is_no_interrupt_is_one_line(capsys):
  def action():
    raise Cancelled('the job was cancelled')

  assert cli.run_command(action) == cli.REFUSED
  assert capsys.readouterr().err == 'error: the job was cancelled\n'
