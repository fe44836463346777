"""Memory between two forward passes: kept, where the C library would return it to the system.

The GNU C library hands every freed block above 32 MiB back to the system, and a convolution network frees several in each
pass over a batch; the next pass then pays for thousands of page faults. Keeping them made a float32 pass over ten images
1.1 to 2.4 times faster (benchmarks/README.md says on which networks).
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

KEPT = 2**30  #: bytes; larger blocks, and more than this at the end of the heap, are still returned
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  #: as in the C library's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Ask the GNU C library to keep freed blocks for the next pass; whether it does.

    It holds for the whole process, which stays at its highest memory use. Nothing is done on systems with another C
    library, or where the user has set one of its variables `MALLOC_..._THRESHOLD_`.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") or os.environ.get("MALLOC_MMAP_THRESHOLD_"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no such function: macOS, musl, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, KEPT)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
