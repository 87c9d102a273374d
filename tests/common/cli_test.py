"""common/cli.py: renamed flags."""

from lipsync_jax.common import cli


def test_renamed_flags_get_new_names_and_one_line_each(capsys):
  words = ('--old=a=b', '--old', '--other', 'old', '--older')
  found = cli.with_new_names(words, {'--old': '--new'})
  assert found == ['--new=a=b', '--new', '--other', 'old', '--older']
  assert words[0] == '--old=a=b'
  assert capsys.readouterr().err == 2 * 'note: --old is now --new\n'
