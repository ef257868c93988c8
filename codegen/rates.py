"""What the ways of computing a sum over windows cost on a machine, and where that is kept.

A way's predicted time is ``work * rate + elements moved * rate`` on one thread. The rates are those
below unless they were measured here (`codegen.tune`): then they stand, with the ways that were
measured for single equations, in one file of the user's cache folder, whose name tells the
processor and the versions that it holds for. The same program, options and file give the same text.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from derive import __version__
from derive.errors import DataError
from derive.files import write_atomically

WAYS = ("auto", "product", "direct", "winograd")
Ways = str | tuple[tuple[str, str], ...]  # one for all equations, or for each by name


@dataclass(frozen=True)
class Rates:
    """Nanoseconds for a multiplication with its addition in a matrix product, and in a nest of
    loops; and for an element of windows copied, of windows summed, of a border or a transposed
    copy, and of tiles transformed (as measured on an AMD EPYC with AVX-512)."""

    product: float = 0.0175
    direct: float = 0.0175
    patch: float = 0.7
    partial: float = 0.7
    border: float = 0.3
    transform: float = 0.13


RATES = Rates()


@dataclass(frozen=True)
class Kept:
    """What was measured on this machine: rates, and for equations (by key) the fastest way."""

    rates: Rates | None = None
    ways: dict[str, str] = field(default_factory=dict)


def machine_key() -> str:
    """The processor and the versions that measurements hold for."""
    from importlib.metadata import version  # an import of Numba costs half a second

    return f"{_processor()}, numba {version('numba')}, llvmlite {version('llvmlite')}, " \
           f"chainrule {__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [x.partition(":")[2].strip() for x in lines
             if x.startswith(("model name", "cpu family", "model\t", "flags"))]
    text = " ".join(dict.fromkeys(names)) or platform.processor() or platform.machine()
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return f"{model or platform.machine()} {digest}"


def kept_file(folder: Path) -> Path:
    """Where measurements of this machine are kept."""
    return folder / f"rates_{hashlib.sha256(machine_key().encode()).hexdigest()[:12]}.json"


def read_kept(folder: Path) -> Kept:
    """What was measured on this machine; nothing where there is no file.

    Raises:
        DataError: the file is not one that `write_kept` wrote.
    """
    path = kept_file(folder)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Kept()
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, str(error)) from error
    try:
        return _kept(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad(path, f"{type(error).__name__}: {error}") from error


def _kept(data: dict[str, Any]) -> Kept:
    rates = data["rates"]
    if rates is not None:
        names = {f.name for f in fields(Rates)}
        if set(rates) != names or not all(isinstance(v, float) and 0 < v < 1e6
                                          for v in rates.values()):
            raise ValueError(f"rates must be positive numbers for {', '.join(sorted(names))}")
        rates = Rates(**rates)
    wrong = [w for w in data["ways"].values() if w not in WAYS]
    if wrong:
        raise ValueError(f"no way is called {wrong[0]!r}")
    return Kept(rates, dict(data["ways"]))


def _bad(path: Path, why: str) -> DataError:
    return DataError(f"the measurements in {str(path)!r} cannot be read ({why})",
                     expected="a file that chainrule wrote", mend="delete it and measure again: "
                     "chainrule emit … --tune")


def write_kept(folder: Path, kept: Kept) -> Path:
    """Keep what was measured.

    Raises:
        DataError: the file cannot be written.
    """
    data = {"machine": machine_key(), "rates": asdict(kept.rates) if kept.rates else None,
            "ways": dict(sorted(kept.ways.items()))}
    path = kept_file(folder)
    try:
        write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())
    except OSError as error:
        raise DataError(f"the measurements {str(path)!r} cannot be written: {error.strerror}",
                        mend="set CHAINRULE_CACHE to a folder of yours") from error
    return path
