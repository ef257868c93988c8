"""Processor time for a search."""

from __future__ import annotations

import time

_EVERY = 16  # asking the system for the time can cost more than a trial


class Deadline:
    """The end of some seconds of processor time, looked up at every few calls only."""

    def __init__(self, seconds: float) -> None:
        self.end, self.calls, self.over = time.process_time() + seconds, 0, False

    def part(self, seconds: float) -> Deadline:
        """The end of some seconds from now, or this one where it comes first."""
        return Deadline(min(seconds, self.end - time.process_time()))

    def passed(self) -> bool:
        if self.calls % _EVERY == 0:
            self.over = time.process_time() > self.end
        self.calls += 1
        return self.over
