"""Memory: what this process holds, and that it stays the same over hours.

glibc keeps freed blocks for later. Frames of a video, a megabyte and more,
come and go in several threads, and between them lie small things that stay:
without a word to it the heaps of all threads grow for minutes. Where another
C library is at work nothing is asked of it.
"""

import contextlib
import ctypes
import sys

LARGE_BLOCK = 2**18  # bytes; a block from here on is mapped alone
M_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def map_large_blocks() -> None:
  """Have large blocks mapped one by one, and unmapped when they are freed.

  This is how glibc starts; but the first large block that is freed raises
  the limit beyond the size of a frame, unless it was set.
  """
  _glibc_function('mallopt', M_MMAP_THRESHOLD, LARGE_BLOCK)


def release_free_memory() -> None:
  """Return what was freed in small pieces to the system."""
  _glibc_function('malloc_trim', 0)


def _glibc_function(name: str, *given: int) -> None:
  """Call a function of glibc, if that is the C library."""
  if sys.platform == 'linux':
    with contextlib.suppress(AttributeError, OSError):
      getattr(ctypes.CDLL(None), name)(*given)


def peak_rss_mb() -> int | None:
  """The most memory this process has held, in MB; None on Windows."""
  try:
    import resource
  except ImportError:
    return None
  unit = 2**20 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
