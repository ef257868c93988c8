"""Ctrl-C and SIGTERM during a run: asked to stop, the run saves and ends by itself."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether a signal asked for the end, and which."""

    name: str = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """The first SIGINT or SIGTERM inside the block is noted; the second interrupts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may have handlers
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.name:
            raise KeyboardInterrupt
        request.name = signal.Signals(number).name
        print(f"\n{request.name}: saving, then the end (once more: at once)", file=sys.stderr)

    kept = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
