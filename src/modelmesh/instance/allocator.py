"""Returns the memory of large messages to the system after they were freed."""

import ctypes

_MMAP_THRESHOLD = -3
"""glibc's name for it: `M_MMAP_THRESHOLD`."""
LARGE = 512 << 10
"""Bytes. The byte path's buffers are smaller, and stay where they are fast."""


def give_large_blocks_back() -> None:
    """Have each large block mapped by itself, for the whole process.

    glibc does so at first, and leaves off for sizes that were freed once: then a burst of large messages stays on the
    heap between small ones. Other libraries have no such function.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, LARGE)
