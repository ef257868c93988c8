"""Errors that a user can act on: what is wrong, where, what was expected, how to mend it."""

from __future__ import annotations

import difflib
import linecache
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_OWN_FOLDERS = tuple(
    str(Path(__file__).resolve().parent.parent / room) for room in ("derive", "codegen")
)
_COMMAND = ("chainrule", "chainrule-script.py")


@dataclass(frozen=True)
class Location:
    """A line in a file of the user's."""

    file: str
    line: int

    @property
    def source(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        text = self.source
        return f"{self.file}:{self.line}" + (f"\n      {text}" if text else "")


def user_location() -> Location | None:
    """The innermost frame that is neither inside this project, nor in the script that an installer
    made of the command, nor in what starts a rank: the line that the user wrote."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        own = file.startswith((*_OWN_FOLDERS, "<frozen")) or Path(file).name in _COMMAND
        if not own and "mpi4py" not in Path(file).parts:
            return Location(file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one, or None where nothing is close."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


class ChainruleError(Exception):
    """Base of every error that this project raises on purpose.

    Parts: ``what`` is wrong (names the tensor or index), ``expected`` and ``got``,
    ``mend`` says how to put it right, ``where`` is the user's line.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object = None,
        got: object = None,
        mend: str | None = None,
        where: Location | None = None,
    ) -> None:
        self.what, self.expected, self.got, self.mend = what, expected, got, mend
        self.where = where or user_location()
        super().__init__(self._text())

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message, not the lines of ours that led to it."""
        return [f"{type(self).__name__}: {self}"]

    def _text(self) -> str:
        lines = [self.what]
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.got is not None:
            lines.append(f"  got:      {self.got}")
        if self.mend:
            lines.append(f"  mend:     {self.mend}")
        if self.where:
            lines.append(f"  at {self.where}")
        return "\n".join(lines)


class DeclarationError(ChainruleError):
    """A network, tensor, index or equation is declared wrongly."""


class DerivationError(ChainruleError):
    """A gradient cannot be derived as asked."""


class DataError(ChainruleError):
    """Values handed in (data, weights, gradients) do not fit the declaration."""


class MissingError(ChainruleError):
    """Something is missing on this machine (exit code 4)."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ChainruleError:
    """The error for a name that nobody declared, with the nearest known one."""
    known = sorted(known)
    guess = nearest(name, known)
    return DeclarationError(
        f"{kind} {name!r} is not declared",
        expected=("one of " + ", ".join(known)) if known else f"no {kind} is declared yet",
        mend=f"did you mean {guess!r}?" if guess else None,
    )
