"""Memory that is freed is given back, though small things lie between."""

import platform
import subprocess
import sys

import pytest

from lipsync_jax.common import memory

SCRIPT = """
import sys
from lipsync_jax.common import memory

def held():
  with open('/proc/self/status') as file:
    line = next(line for line in file if line.startswith('RssAnon'))
  return int(line.split()[1]) / 1024

if 'mapped' in sys.argv:
  memory.map_large_blocks()
bytearray(8_000_000)  # freed at once: glibc draws its conclusions
before, kept = held(), []
large = []
for _ in range(40):
  large.append(bytearray(1_400_000))  # a plane of 720p
  kept.append(bytearray(20_000))
large.clear()
print(held() - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='only glibc is asked'
)
def test_frames_leave_no_holes():
  left = {}
  for word in ('mapped', 'as it is'):
    done = subprocess.run(
      [sys.executable, '-c', SCRIPT, word],
      capture_output=True,
      text=True,
      timeout=120,
    )
    left[word] = float(done.stdout or 'nan')
  assert left['mapped'] < 5
  assert left['as it is'] > 20, (
    'nothing to mend: is map_large_blocks() still needed?'
  )


def test_peak_is_what_was_held():
  before = memory.peak_rss_mb()
  if before is None:
    pytest.skip('no resource module: Windows')
  held = b'x' * ((before + 64) * 2**20)
  assert before + 64 <= memory.peak_rss_mb() <= 2 * len(held) / 2**20
  memory.release_free_memory()
