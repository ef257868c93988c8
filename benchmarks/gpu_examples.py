"""The networks of all examples, as what kernels for a GPU are made of: one loss and its gradients.

An example that declares several losses gives a program for each; one that trains a large encoder
is its first block. Where kernels run thread by thread, in Python, networks are narrow: the same
equations with sizes that are a little more than a tile of the simulation, or a few.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import derive as dr
from codegen.loading import load_model
from derive.differentiate import derive
from derive.points import random_values

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
# what stands in an example, and what in its place makes it narrow
NARROW: dict[str, tuple[tuple[str, str], ...]] = {
    "autoencoder.py": (("64, dr.relu", "18, dr.relu"),),
    "char_lstm.py": (("set(TEXT))", "set(TEXT))[:11]"), ("32, 64", "4, 18"), ("24)", "6)")),
    "char_transformer.py": (("set(TEXT))", "set(TEXT))[:11]"), ("32, 32", "5, 8")),
    "cnn_digits.py": (("x, 16,", "x, 3,"), ("h, 32,", "h, 5,"), ("h, 64,", "h, 18,")),
    "denoise_1d.py": (("LENGTH = 256", "LENGTH = 20"), ("x, 12,", "x, 3,"), ("h, 12,", "h, 3,")),
    "digits.py": (("(256, 128)", "(18, 7)"),),
    "finetune_minilm.py": (("HEADS = 24, 6, 384, 12", "HEADS = 3, 6, 24, 2"), ("30522", "29"),
                           ("512)", "7)")),
    "gan.py": (("0.1, 4, 64", "0.1, 4, 18"),),
    "gan_digits.py": (("= 16, 128, 64", "= 5, 18, 64"),),
    "resnet_block.py": (("((8, 1), (16, 2))", "((3, 1), (5, 2))"),),
    "vae.py": (("64, dr.relu", "18, dr.relu"),),
    "vanishing.py": (("DEPTH, WIDTH = 50, 64", "DEPTH, WIDTH = 4, 18"),),
}


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
    for label, program in declared(name, narrow):
        for loss in program.losses:
            title = label if len(program.losses) == 1 else f"{label} ({loss})"
            yield title, derive(program.only(loss, *program.updates.values()), of=loss)


def point(program: dr.Program, seed: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Random values of all that is given; sentences have at least one word."""
    values = random_values(program, seed, sizes)
    if "length" in values:
        most = values["words"].shape[1]
        values["length"] = np.random.default_rng(seed).integers(
            1, most + 1, values["length"].shape)
    return values


def declared(name: str, narrow: bool) -> Iterator[tuple[str, dr.Program]]:
    """The networks of an example, not derived, and what to call each."""
    if narrow and name in NARROW:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(_narrow(name), encoding="utf-8")
            yield from _read(path)
    else:
        yield from _read(FOLDER / name)


def _narrow(name: str) -> str:
    text = (FOLDER / name).read_text(encoding="utf-8")
    for old, new in NARROW[name]:
        assert old in text, f"{old!r} stands nowhere in {name}"
        text = text.replace(old, new)
    return text


def _read(path: Path) -> Iterator[tuple[str, dr.Program]]:
    if path.name not in ("vanishing.py", "finetune_minilm.py"):
        yield path.name, load_model(path).program
        return
    example: Any = module_of(path, f"example_{path.stem}")
    if path.name == "vanishing.py":
        for variant in ("sigmoid", "batch norm"):
            yield f"{path.name} ({variant})", example.variants()[variant].program()
        return
    yield f"{path.name} (one block)", example.network(1).program()
