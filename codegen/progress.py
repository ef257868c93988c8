"""Progress for everything that may take longer than a second: to stderr, quiet in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[float, str], None]  # how much is done, and a word on how it goes


@contextmanager
def progress(what: str, total: int = 1) -> Iterator[Report]:
    """Show what is going on; the value of the block is called with (done, note).

    On a terminal a bar with the time left; in a notebook one line that is written over; in a log
    one line when it ends, if it took a second.
    """
    start = time.perf_counter()
    if not sys.stderr.isatty():
        last = [""]
        line = _notebook_line() if total > 1 else None

        def note(done: float, text: str = "") -> None:
            last[0] = text
            if line is not None:
                line(f"{what}: {done:.1f} of {total}, {_left(start, done / total)} left, {text}")

        yield note
        seconds = time.perf_counter() - start
        if line is not None:
            line(f"{what}: {seconds:.1f} s {last[0]}".rstrip(), True)
        elif seconds > 1:
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

        def show(done: float, text: str = "") -> None:
            bar.update(task, completed=done, note=text)

        yield show


def _left(start: float, share: float) -> str:
    if share <= 0:
        return "?"
    seconds = (time.perf_counter() - start) * (1 - share) / share
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _notebook_line() -> Callable[..., None] | None:
    """What shows one line of text in a notebook, each time in the same place (the last one at
    once); None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import Pretty, display

    place, last = display(Pretty(""), display_id=True), [0.0]

    def show(text: str, at_once: bool = False) -> None:
        if at_once or time.perf_counter() - last[0] > 0.2:  # not faster than anyone reads
            last[0] = time.perf_counter()
            place.update(Pretty(text))

    return show
