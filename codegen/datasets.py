"""Data for training: files, memory maps, tables, or the real data sets that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codegen.loading import ModelFile
from codegen.rows import Rows
from codegen.tables import read_table, table_arrays
from derive.data import check_values
from derive.errors import DataError, MissingError
from derive.functions import softplus
from derive.nodes import Access, IntegerAccess, accesses
from derive.program import Program

SHIPPED = ("digits", "iris", "wine", "breast_cancer", "diabetes")
_TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Parts:
    """The rows to train on, and those that are held out (of no rows, maybe)."""

    train: Rows
    validation: Rows
    test: Rows

    @property
    def held_out(self) -> dict[str, Rows]:
        return {n: r for n, r in (("validation", self.validation), ("test", self.test)) if len(r)}


def scikit_learn(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (float64) and targets of one of the data sets that scikit-learn ships."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingError(
            f"the data set {name!r} comes with scikit-learn, which is not installed",
            mend="python -m pip install scikit-learn",
        ) from error
    load: Callable = getattr(datasets, f"load_{name}")
    return load(return_X_y=True)


def split(rows: Rows, test_share: float, seed: int, validation_share: float = 0.0,
          labels_of: str | None = "") -> Parts:
    """A shuffled split; each class of the array ``labels_of`` keeps its share in each part (by
    default of the first one of whole numbers that has one dim; None: there are no classes).
    Classes too rare to have a row in each part count as one.

    Raises:
        DataError: nothing is left to train on, or only one of several classes.
    """
    if labels_of == "":
        labels_of = next((n for n, a in rows.arrays.items()
                          if a.dtype.kind in "iu" and a.ndim == 1), None)
    labels = np.asarray(rows.arrays[labels_of]).reshape(-1) if labels_of else None
    classes = np.zeros(len(rows), int)
    if labels is not None:
        _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        least = min((share for share in (test_share, validation_share) if share), default=1.0)
        classes = np.where(np.round(least * counts[classes]) > 0, classes, -1)
    stream = np.random.default_rng(seed)
    chosen: list[list[np.ndarray]] = [[], [], []]
    for each in np.unique(classes):
        members = stream.permutation(np.flatnonzero(classes == each))
        test = round(test_share * len(members))
        held = test + round(validation_share * len(members))
        for part, piece in zip(chosen, (members[held:], members[test:held], members[:test]),
                               strict=True):
            part.append(piece)
    train, validation, test_rows = (
        np.sort(np.concatenate(part)) if part else np.zeros(0, int) for part in chosen)
    if not len(train):
        raise DataError("no rows are left to train on", expected="more rows or smaller shares",
                        got=f"{len(rows)} rows")
    if labels is not None and len(np.unique(labels[train])) < 2:
        raise DataError(
            "all rows to train on are of one class", expected="labels of at least two classes",
            got=f"{len(train)} rows of the class {labels[train][0]}")
    return Parts(rows.part(stream.permutation(train)), rows.part(validation),
                 rows.part(test_rows))


def standardised(parts: Parts, name: str) -> Parts:
    """One input shifted and scaled by the training part's mean and deviation per feature."""
    x = np.asarray(parts.train.take()[name], dtype=float)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation = np.where(deviation < 1e-8 * max(1.0, float(deviation.max())), 1.0, deviation)

    def scaled(rows: Rows) -> Rows:
        arrays = rows.take()
        return Rows({**arrays, name: (arrays[name] - mean) / deviation}, None,
                    rows.original(np.arange(len(rows))))

    return Parts(scaled(parts.train), scaled(parts.validation), scaled(parts.test))


def load_data(model: ModelFile, source: str, *, test_share: float, validation_share: float,
              seed: int, columns: Mapping[str, list[str]] | None = None,
              standardise: bool | None = None) -> Parts:
    """The data of ``chainrule train``.

    Args:
        source: a shipped set, an .npz file, a folder of .npy files (memory-mapped, so that they
            may be larger than memory), a .csv or .parquet table, or "" for the model file's
            ``data()``.
        columns: of a table, which columns each input takes.
        standardise: whether float inputs are shifted and scaled by the training part's mean and
            deviation; by default those of shipped data are.

    Raises:
        DataError: nothing is named, an input has no array, or a file is not readable.
    """
    program = model.program
    if not source:
        found = _own_data(model)
        if isinstance(found, Parts):
            return found
        arrays = found
    elif source in SHIPPED:
        arrays = _shipped(program, source)
    else:
        arrays = _read(program, Path(source), columns or {})
    rows = Rows(arrays)
    if rows.resident and len(rows):  # while rows have the numbers that the user knows them by
        check_values(program, arrays, names=[t.name for t in program.inputs])
    parts = split(rows, test_share, seed, validation_share, _classes(program, arrays))
    if standardise is None:
        standardise = source in SHIPPED
    if standardise:
        targets = _targets(program) if source != "diabetes" else set()
        for tensor in program.inputs:
            if tensor.dtype == "float" and tensor.name not in targets:
                parts = standardised(parts, tensor.name)
    return parts


def _classes(program: Program, arrays: Mapping[str, np.ndarray]) -> str | None:
    """The input that holds a row's class: labels that the loss picks by, or one number of 0 or 1
    for each row that a loss of log-odds compares."""
    pair = class_scores(program)
    if pair is not None:
        return pair[1] if program.tensors[pair[1]].rank == 1 else None
    targets = _targets(program)
    for eq in program.equations:
        for name in (n for n in eq.reads if n in targets and eq.body.has(softplus)):
            values = arrays.get(name)
            if values is not None and values.size == len(values) and (
                    ((values == 0) | (values == 1)).all()):
                return name
    return None


def _targets(program: Program) -> set[str]:
    from codegen.pipeline import label_inputs

    return set(label_inputs(program))


def _own_data(model: ModelFile) -> Parts | dict[str, np.ndarray]:
    inputs = model.program.inputs
    if model.data is None:
        raise DataError(
            "no training data is named",
            expected=f"--data FILE with arrays {', '.join(t.name for t in inputs)}, one of "
            f"{', '.join(SHIPPED)}, or a function data() in {model.path.name}",
        )
    found = model.data()
    parts_of = found if isinstance(found, tuple) else (found,)
    if not all(isinstance(part, Mapping) for part in parts_of) or len(parts_of) > 2:
        raise DataError(f"data() in {model.path.name} gives something else",
                        expected="arrays by input name, or two such (to train on, to test on)",
                        got=type(found).__name__)
    if isinstance(found, tuple):
        train, test = (Rows({n: np.asarray(a) for n, a in part.items()}) for part in found)
        return Parts(train, test.part(np.zeros(0, int)), test)
    return {n: a if isinstance(a, np.ndarray) else np.asarray(a) for n, a in found.items()}


def _shipped(program: Program, name: str) -> dict[str, np.ndarray]:
    floats = [t for t in program.inputs if t.dtype == "float"]
    labels = [t for t in program.inputs if t.dtype == "int"]
    features, target = scikit_learn(name)
    if len(floats) == 1 and not labels:  # an autoencoder
        return {floats[0].name: features.astype(float).reshape(_rows_of(floats[0], features))}
    if not floats or len(floats) + len(labels) != 2:
        raise DataError(
            f"the data set {name!r} has features and one target",
            expected="a network with two inputs",
            got=", ".join(t.name for t in program.inputs) or "no input",
        )
    other = labels[0] if labels else floats[1]
    y = target if other.dtype == "int" else target.astype(float)
    if other.dtype == "float" and other.rank == 2:
        y = y[:, None]
    x = features.astype(float)
    return {floats[0].name: x.reshape(_rows_of(floats[0], x)), other.name: y}


def _rows_of(tensor: Any, array: np.ndarray) -> tuple[int, ...]:
    """The shape of an input whose rows hold as many numbers as those of the array."""
    inner = tuple(int(s) for s in tensor.shape[1:] if s.is_Integer)
    fits = len(inner) == tensor.rank - 1 and int(np.prod(inner)) == array[0].size
    return (len(array), *inner) if fits else array.shape


def _read(program: Program, path: Path, columns: Mapping[str, list[str]]
          ) -> dict[str, np.ndarray]:
    needed = [t.name for t in program.inputs]
    if path.is_dir():
        return _memory_maps(path, needed)
    if not path.is_file():
        raise DataError(f"there is no data file {str(path)!r}",
                        expected="an .npz, .csv or .parquet file, or a folder of .npy files")
    if path.suffix in _TABLES:
        return table_arrays(program, read_table(path), columns, path.name)
    if path.suffix != ".npz":
        raise DataError(
            f"{path.name!r} is not read" + (
                ": pickled files can run code" if path.suffix in (".pkl", ".pickle", ".pt", ".pth")
                else ""),
            expected="an .npz, .csv or .parquet file, or a folder of .npy files")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [n for n in needed if n not in archive.files]
            if missing:
                raise DataError(
                    f"{path.name} has no array {missing[0]!r}",
                    expected=f"arrays {', '.join(needed)}", got=", ".join(archive.files),
                )
            return {n: archive[n] for n in needed}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise DataError(f"{path.name} is no readable .npz file: {error}") from error


def _memory_maps(folder: Path, needed: list[str]) -> dict[str, np.ndarray]:
    found = {}
    for name in needed:
        path = folder / f"{name}.npy"
        if not path.is_file():
            raise DataError(f"the folder {folder.name!r} has no {path.name}",
                            expected=", ".join(f"{n}.npy" for n in needed),
                            got=", ".join(sorted(p.name for p in folder.glob("*.npy"))) or "none")
        try:
            found[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path.name} is no readable .npy file: {error}") from error
    return found


def class_scores(program: Program) -> tuple[str, str] | None:
    """``(scores, labels)`` where the loss picks ``z[…, t[…]]`` by integer labels, else None."""
    labels = {t.name for t in program.inputs if t.dtype == "int"}
    for eq in program.equations:
        for access in accesses(eq.body):
            last = access.where[-1] if access.where else None
            if isinstance(last, IntegerAccess) and last.name in labels and _plain(access):
                if access.name in program.defined:
                    return access.name, last.name
    return None


def _plain(access: Access) -> bool:
    return not any(isinstance(e, IntegerAccess) for e in access.where[:-1])
