"""Freed memory stays with the process: each training step then finds the pages of the last one.

glibc hands a large block back to the kernel as soon as it is freed. A training step frees and asks for the same sizes
again and again, and each time the kernel fills the pages with zeros first. Keeping them saves that work; the price is
that the process holds the memory of its largest step until it ends.
"""

import ctypes
import functools
import platform

# Of <malloc.h>. Blocks from M_MMAP_THRESHOLD bytes on get a mapping of their own, unmapped when freed; the heap's end
# is given back when more than M_TRIM_THRESHOLD bytes of it are free.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT, KEPT = 2**29, 2**31 - 1


@functools.cache
def keep_freed_memory():
    """Tell glibc to keep what is freed, once a process. Returns whether it was done; other C libraries are let be."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Older versions take at most 32 MiB here. Either setting alone would be no gain: the first that fails ends it.
    if not (mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT))
