"""Memory that Python has freed and the process still holds."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache


def give_back() -> None:
    """Return freed heap pages to the system.

    glibc keeps them where tensors of ever other sizes come and go, as sliced weights do: a search on a model of 135
    million parameters grew by 100 to 300 MB a trial. Does nothing with another C library.
    """
    library = _of_c()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@cache  # a process is started to find it
def _of_c() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("c"))
