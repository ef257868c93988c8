"""Progress: one line in a log, a bar on a terminal, one line written over in a notebook."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from codegen import progress as module
from codegen.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Ten seconds between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 10
        return self.now


def steps() -> None:
    with progress("training", 4) as show:
        for done in (1, 2, 4):
            show(done, f"loss {1 / done:.4f}, 100 rows/s")


def test_a_log_gets_one_line_and_none_of_what_was_quick(monkeypatch: pytest.MonkeyPatch, capsys):
    steps()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "time", Clock())
    steps()
    assert capsys.readouterr().err == "training: 10.0 s loss 0.2500, 100 rows/s\n"


def test_a_terminal_gets_a_bar_with_loss_and_speed(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    steps()
    assert "training" in screen.getvalue() and "loss 0.2500, 100 rows/s" in screen.getvalue()


def test_a_notebook_gets_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch, capsys):
    shown: list[str] = []

    class Place:
        def update(self, text: Any) -> None:
            shown.append(text)

    shell = SimpleNamespace(kernel=object())
    top, display = ModuleType("IPython"), ModuleType("IPython.display")
    top.get_ipython = lambda: shell  # type: ignore[attr-defined]
    display.Pretty = str  # type: ignore[attr-defined]
    display.display = lambda text, display_id: Place()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", top)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    steps()  # quicker than anyone reads, but for the end
    assert len(shown) == 2 and "left" not in shown.pop()
    shown.clear()
    monkeypatch.setattr(module, "time", Clock())
    steps()
    assert len(shown) == 4 and shown[-1].startswith("training: ") and "left" not in shown[-1]
    assert shown[0].startswith("training: 1.0 of 4, ") and "left, loss 1.0000" in shown[0]
