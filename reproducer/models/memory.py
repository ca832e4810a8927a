"""Memory that Python has freed and the process still holds."""

from __future__ import annotations

import ctypes
import ctypes.util


def give_back() -> None:
    """Return freed heap pages to the system.

    glibc keeps them where tensors of ever other sizes come and go, as sliced weights do: a search on a model of 135
    million parameters grew by 100 to 300 MB a trial. Does nothing with another C library.
    """
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
