"""Python's garbage collector kept from going through trees again and again while they are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While this lasts (as a context, or around a function) nothing looks for cycles. Emission
    makes many objects and hardly any cycle; of 1,000 layers the search took a third of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
