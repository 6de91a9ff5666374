"""What the C library does with memory that torch frees on a CPU."""

from __future__ import annotations

import contextlib
import ctypes

# mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let freed memory wait for the next tensor of its size instead of going back to the system.

    Each step of a training allocates what the step before has freed. glibc gives large blocks back, and every page that
    is asked for again comes as a fault, filled with zeros: a tenth of a mini step. The peak stays the same. Other C
    libraries have no such switch and are left alone.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        c = ctypes.CDLL(None)
        c.mallopt(M_MMAP_MAX, 0)  # blocks of any size come from the heap
        c.mallopt(M_TRIM_THRESHOLD, -1)  # whose end is not cut off
