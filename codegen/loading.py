"""Model files: a Python file that declares a network (code, as a conftest.py is), or a `.net` text.

A Python file is run as a module; its network is the variable ``net``, the function ``network()``
(or ``network(training)``, where dropout makes two of it), or the only `Network` in it. It may also
have ``data()``, which gives the training data.
"""

from __future__ import annotations

import linecache
import runpy
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from derive.errors import ChainruleError, DeclarationError, Location
from derive.network import Network
from derive.program import Program, as_program


@dataclass(frozen=True)
class ModelFile:
    """What a model file declares: the program, ``data()`` where the file has one, and the network
    as it is for inference where ``network(training)`` makes another one of that."""

    path: Path
    program: Program
    data: Callable[[], Any] | None = None
    evaluation: Program | None = None


def load_model(path: str | Path) -> ModelFile:
    """Read a model file.

    Raises:
        DeclarationError: no such file, an unknown kind of file, no network in it or several, or
            the file itself raises (its own line is shown).
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py"))[:5] if path.parent.is_dir() else []
        raise DeclarationError(
            f"there is no model file {str(path)!r}",
            expected="a Python file that declares a network, or a .net text",
            mend=f"in that folder are {', '.join(near)}" if near else None,
        )
    if path.suffix == ".net":
        from derive.netfile import read_network

        return ModelFile(path, read_network(path).program())
    if path.suffix != ".py":
        raise DeclarationError(
            f"{str(path)!r} is neither Python nor a .net text", expected="a name in .py or .net"
        )
    names = run_file(path)
    make = names.get("network")
    if "net" not in names and callable(make) and "training" in signature(make).parameters:
        trained, tested = (as_program(make(training=way)) for way in (True, False))
        return ModelFile(path, trained, names.get("data"), tested)
    return ModelFile(path, _program(path, names), names.get("data"))


def run_file(path: Path) -> dict[str, Any]:
    """Run a user's Python file; an exception in it is shown once, at its own line."""
    try:
        return runpy.run_path(str(path))
    except ChainruleError:
        raise
    except SyntaxError as error:
        raise DeclarationError(
            f"{path.name} is not Python: {error.msg}",
            where=Location(str(error.filename or path), error.lineno or 1),
        ) from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if Path(f.filename).name == path.name]
        line = own[-1].lineno if own else 1
        linecache.checkcache(str(path))
        raise DeclarationError(
            f"{path.name} raises {type(error).__name__}: {error}",
            where=Location(str(path), line or 1),
        ) from error


def _program(path: Path, names: dict[str, Any]) -> Program:
    found = {n: v for n, v in names.items() if isinstance(v, Network)}
    if "net" in found:
        return found["net"].program()
    if callable(names.get("network")):
        return as_program(names["network"]())
    if len(found) == 1:
        return next(iter(found.values())).program()
    raise DeclarationError(
        f"{path.name} declares " + ("no network" if not found else f"several: {', '.join(found)}"),
        expected='a variable `net = dr.Network("…")` or a function network() that returns one',
    )
