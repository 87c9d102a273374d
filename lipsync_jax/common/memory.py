"""Memory of this process: its peak, and settings that keep it flat for hours.

glibc keeps freed blocks for later use. Several threads allocate and free
frames of a megabyte and more, with small lasting objects between them. The
heaps of all threads would then grow for minutes. With another C library the
functions that set glibc do nothing.
"""

import contextlib
import ctypes
import sys

LARGE_BLOCK = 2**18  # bytes; blocks from this size on are mapped one by one
M_MMAP_THRESHOLD = -3  # of malloc.h


def map_large_blocks() -> None:
  """Make glibc map large blocks one by one, and unmap them when freed.

  This is glibc's initial behavior. Unless the limit is set, the first large
  block that is freed raises it beyond the size of a frame.
  """
  _glibc_function('mallopt', M_MMAP_THRESHOLD, LARGE_BLOCK)


def release_free_memory() -> None:
  """Return small freed blocks to the system."""
  _glibc_function('malloc_trim', 0)


def _glibc_function(name: str, *arguments: int) -> None:
  """Call a function of glibc, if that is the C library."""
  if sys.platform == 'linux':
    with contextlib.suppress(AttributeError, OSError):
      getattr(ctypes.CDLL(None), name)(*arguments)


def peak_rss() -> int:
  """The most memory this process has held, in bytes."""
  if sys.platform == 'win32':
    return _peak_rss_windows()
  if sys.platform == 'linux':
    # getrusage would include the parent's memory at the time of the fork.
    with open('/proc/self/status', encoding='ascii') as file:
      line = next(line for line in file if line.startswith('VmHWM'))
    return int(line.split()[1]) * 2**10
  import resource

  unit = 1 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_rss_windows() -> int:
  """PeakWorkingSetSize of PROCESS_MEMORY_COUNTERS."""
  from ctypes import wintypes

  class Counters(ctypes.Structure):
    _fields_ = (
      ('size', wintypes.DWORD),
      ('faults', wintypes.DWORD),
      *((f'value{i}', ctypes.c_size_t) for i in range(8)),
    )

  counters = Counters(size=ctypes.sizeof(Counters))
  kernel = ctypes.WinDLL('kernel32')
  kernel.GetCurrentProcess.restype = wintypes.HANDLE
  kernel.K32GetProcessMemoryInfo.argtypes = (
    *(wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD),
  )
  handle = kernel.GetCurrentProcess()
  kernel.K32GetProcessMemoryInfo(handle, counters, counters.size)
  return counters.value0
