"""Checkpoints: what a training run is at one step, in files that survive what happens to it.

A checkpoint is one ``.safetensors`` file, written all or nothing: arrays (parameters, states,
moments, best weights so far), and in its header a manifest (JSON: position in the data, schedule,
history, versions) with the SHA-256 of every array, and the manifest's own. Whatever is killed or
runs out of space at any byte, the file before it stays whole; a file that was cut or changed is
told by its checksums, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from derive.errors import DataError
from derive.files import write_atomically
from derive.importing.arrays import safetensors

FORMAT = "chainrule checkpoint 1"
_NAME = re.compile(r"step-(\d{12})\.safetensors")

Arrays = dict[str, np.ndarray]


class CheckpointError(DataError):
    """A file that is no checkpoint, or one that was cut or changed."""


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and the notes: everything else, as JSON holds it."""

    step: int
    arrays: Arrays
    notes: dict[str, Any]


def encode(checkpoint: Checkpoint) -> bytes:
    """The content of a checkpoint's file."""
    arrays = {n: np.ascontiguousarray(a) for n, a in checkpoint.arrays.items()}
    manifest = json.dumps({
        "format": FORMAT, "step": checkpoint.step, "notes": checkpoint.notes,
        "tensors": {n: {"shape": list(a.shape), "dtype": str(a.dtype), "sha256": _sum(a)}
                    for n, a in arrays.items()},
    })
    notes = {"manifest": manifest, "sha256": hashlib.sha256(manifest.encode()).hexdigest()}
    return bytes(safetensors().numpy.save(arrays, metadata=notes))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint all or nothing.

    Raises:
        OSError: a full disk, a folder that is read-only; the file before stays as it was.
    """
    write_atomically(path, encode(checkpoint))
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and compare all its checksums.

    Raises:
        CheckpointError: no such file, of another kind, cut, or changed (what is said by name).
    """
    package = safetensors()
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path.name!r} is not read: pickled files can run code",
                              expected="a .safetensors file")
    try:
        with package.safe_open(str(path), "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {str(path)!r}") from None
    except (package.SafetensorError, OSError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)[:200]) from None
    manifest = metadata.get("manifest")
    if manifest is None:
        raise CheckpointError(f"{path.name!r} is no checkpoint: its header has no manifest",
                              expected=FORMAT)
    if hashlib.sha256(manifest.encode()).hexdigest() != metadata.get("sha256"):
        raise _damaged(path, "the manifest is not the one that was written")
    said = json.loads(manifest)
    if said.get("format") != FORMAT:
        raise CheckpointError(f"{path.name!r} has a format that this version does not read",
                              expected=FORMAT, got=said.get("format"))
    if set(said["tensors"]) != set(arrays):
        raise _damaged(path, "tensors were added or left out")
    for name, array in arrays.items():
        if said["tensors"][name] != {"shape": list(array.shape), "dtype": str(array.dtype),
                                     "sha256": _sum(array)}:
            raise _damaged(path, f"the tensor {name!r} has another checksum")
    return Checkpoint(said["step"], arrays, said["notes"])


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint {path.name!r} is damaged",
                           expected="the bytes that were written", got=how)


def _sum(array: np.ndarray) -> str:
    whole = np.ascontiguousarray(array).reshape(-1)
    return hashlib.sha256(whole.view(np.uint8).data).hexdigest()


def _warning(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)


class Store:
    """The checkpoints of a run: a folder that keeps the last few."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise DataError("at least one checkpoint is kept", got=keep)
        self.folder, self.keep = folder, keep

    @property
    def files(self) -> list[Path]:
        """Checkpoints in the folder, the oldest first; not opened."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _NAME.fullmatch(p.name))

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write one; then, and only then, older ones than the last few are deleted.

        Raises:
            OSError: it could not be written; all that was there still is.
        """
        path = self.folder / f"step-{checkpoint.step:012d}.safetensors"
        write_checkpoint(path, checkpoint)
        for old in self.files[:-self.keep]:
            old.unlink(missing_ok=True)
        for left in self.folder.glob(".step-*"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        return path

    def latest(self, warn: Callable[[str], None] = _warning) -> Checkpoint | None:
        """The last whole checkpoint; each damaged one after it is named to ``warn``.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        files = self.files
        for path in reversed(files):
            try:
                return read_checkpoint(path)
            except CheckpointError as error:
                last = error
                warn(f"{error.what} ({error.got}); the one before it is used")
        if files:
            raise CheckpointError(
                f"all {len(files)} checkpoints in {str(self.folder)!r} are damaged",
                got=f"the last one: {last.got}", mend="start anew with `chainrule train`")
        return None

    def clear(self) -> None:
        """Delete every checkpoint: a new run begins in this folder."""
        for path in self.files:
            path.unlink()


def fit_into(places: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], what: str
             ) -> None:
    """Copy arrays into views of the same names; nothing is changed unless all of them fit.

    Raises:
        DataError: names every tensor that is missing, left over, or of another shape or dtype.
    """
    wrong = []
    for name, view in places.items():
        kind, _, short = name.partition("/")
        shown = short if kind == "parameter" else f"{kind} {short}"
        if name not in arrays:
            wrong.append(f"{shown}: expected {view.shape}, missing in {what}")
        elif arrays[name].shape != view.shape:
            wrong.append(f"{shown}: expected {view.shape}, got {arrays[name].shape}")
        elif arrays[name].dtype != view.dtype:
            wrong.append(f"{shown}: expected {view.dtype}, got {arrays[name].dtype}")
    wrong += [f"{n.partition('/')[2]}: not in this network" for n in arrays if n not in places]
    if wrong:
        raise DataError(f"{what} is of another network", got="\n    " + "\n    ".join(wrong))
    for name, view in places.items():
        view[...] = arrays[name]
