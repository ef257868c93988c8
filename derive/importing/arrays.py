"""Arrays from files: safetensors and npz, read as data; pickled files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from derive.errors import DataError, MissingError

Arrays = dict[str, np.ndarray]


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a ``.safetensors`` or ``.npz`` file by name, and the notes kept with them.

    Raises:
        DataError: no such file, of another kind (pickled ones among them), or damaged.
        MissingError: the package `safetensors` is not installed.
    """
    if path.suffix not in (".safetensors", ".npz"):
        raise DataError(
            f"{path.name!r} is not read: pickled files can run code",
            expected="a .safetensors or .npz file",
            mend="safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        )
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", expected="a file of weights")
    if path.suffix == ".npz":
        return _read_npz(path), {}
    package = safetensors()
    try:
        with package.safe_open(str(path), "np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (package.SafetensorError, OSError, TypeError) as error:
        raise DataError(f"{path.name!r} is no readable .safetensors file",
                        got=str(error)[:200]) from None


def safetensors() -> Any:
    """The package, imported where it is needed.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise MissingError(
            "reading and writing .safetensors needs the package safetensors, which is not "
            "installed",
            mend='python -m pip install "chainrule[import]"',
        ) from error
    return safetensors


def _read_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path.name!r} is no readable .npz file without pickled objects",
                        got=str(error)[:200]) from None
