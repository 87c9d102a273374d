"""Freed blocks return to the system although small blocks lie between."""

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
bytearray(8_000_000)  # freed at once, which raises glibc's limit
before, kept = held(), []
large = []
for _ in range(40):
  large.append(bytearray(1_400_000))  # a plane of 720p
  kept.append(bytearray(20_000))
large.clear()
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
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
    'no holes without it: is map_large_blocks() still needed?'
  )


def test_peak_covers_memory_that_was_held():
  before = memory.peak_rss() // 2**20
  held = b'x' * ((before + 64) * 2**20)
  assert before + 64 <= memory.peak_rss() // 2**20 <= 2 * len(held) / 2**20
  memory.release_free_memory()
