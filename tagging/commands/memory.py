"""Memory that a program frees stays its own, where the C library is glibc."""

import ctypes
import platform

# Of glibc's malloc.h. PyTorch allocates each result anew, and by default glibc returns large blocks
# to the system as soon as they are free, so that the system clears each page again.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_THRESHOLD = 1 << 25  # bytes, the highest that all versions accept; larger blocks are returned
_TRIM_THRESHOLD = 1 << 30


def keep_freed_memory() -> None:
    """Let freed blocks be allocated again, for all threads, without asking the system.

    The process keeps its peak memory until it ends.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        # Threads' own arenas are of 64 MB, each of which is returned as soon as it is empty.
        libc.mallopt(_M_ARENA_MAX, 1)
