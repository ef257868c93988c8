"""Progress for everything that may take longer than a second: to stderr, quiet in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, str], None]  # how many are done, and a word on how it goes


@contextmanager
def progress(what: str, total: int = 1) -> Iterator[Report]:
    """Show what is going on; the value of the block is called with (done, note).

    On a terminal a bar with the time left; in a log one line when it ends, if it took a second.
    """
    start = time.perf_counter()
    if not sys.stderr.isatty():
        last = [""]

        def note(done: int, text: str = "") -> None:
            last[0] = text

        yield note
        seconds = time.perf_counter() - start
        if seconds > 1:
            print(f"{what}: {seconds:.1f} s {last[0]}".rstrip(), file=sys.stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    times = (TimeElapsedColumn(), Remaining()) if total > 1 else (TimeElapsedColumn(),)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), *times,
                   TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task(what, total=total if total > 1 else None, note="")

        def show(done: int, text: str = "") -> None:
            bar.update(task, completed=done, note=text)

        yield show
