"""The networks of all examples, as what kernels for a GPU are made of: one loss and its gradients.

An example that declares several losses gives a program for each; one that trains a large encoder
is its first block, and can be had narrow where kernels run thread by thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import derive as dr
from codegen.loading import load_model
from derive.differentiate import derive

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
NARROW = {"TOKENS": 3, "UNITS": 24, "HEADS": 2}  # of the encoder, instead of 24, 384 and 12


def module_of(path: Path, name: str) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def names() -> tuple[str, ...]:
    """The examples that declare a network (others train one of these)."""
    return tuple(p.name for p in sorted(FOLDER.glob("*.py")) if "dr.Network(" in p.read_text())


def programs(name: str, narrow: bool = False) -> Iterator[tuple[str, dr.Program]]:
    """Each loss of an example with its gradients, and what to call it."""
    for label, program in _declared(name, narrow):
        for loss in program.losses:
            title = label if len(program.losses) == 1 else f"{label} ({loss})"
            yield title, derive(program.only(loss, *program.updates.values()), of=loss)


def _declared(name: str, narrow: bool) -> Iterator[tuple[str, dr.Program]]:
    path = FOLDER / name
    if name not in ("vanishing.py", "finetune_minilm.py"):
        yield name, load_model(path).program
        return
    example: Any = module_of(path, f"example_{path.stem}")
    if name == "vanishing.py":
        for variant in ("sigmoid", "batch norm"):
            yield f"{name} ({variant})", example.variants()[variant].program()
        return
    vars(example).update(NARROW if narrow else {})
    yield f"{name} (one block)", example.network(1).program()
