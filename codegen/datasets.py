"""Data for training: arrays from a file, or the real data sets that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codegen.loading import ModelFile
from derive.errors import DataError, MissingError
from derive.nodes import Access, IntegerAccess, accesses
from derive.program import Program

SHIPPED = ("digits", "iris", "wine", "breast_cancer", "diabetes")


@dataclass(frozen=True)
class Split:
    """Training and test arrays by input name; the first dim of each is the batch."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


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


def split_indices(
    labels: np.ndarray, test_share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A shuffled split; each class keeps its share where the labels are whole numbers."""
    rng = np.random.default_rng(seed)
    classes = labels if labels.dtype.kind in "iu" else np.zeros(len(labels), int)
    test = []
    for each in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == each))
        test.append(members[: round(test_share * len(members))])
    chosen = np.concatenate(test)
    kept = np.setdiff1d(np.arange(len(labels)), chosen)
    return rng.permutation(kept), np.sort(chosen)


def split(arrays: dict[str, np.ndarray], test_share: float, seed: int) -> Split:
    """Split arrays along their first dim, stratified by the first integer array among them."""
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError("the arrays have different numbers of rows", got=lengths)
    labels = next((a for a in arrays.values() if a.dtype.kind in "iu" and a.ndim == 1), None)
    first = next(iter(arrays.values()))
    train, test = split_indices(labels if labels is not None else first[:, ...].astype(float),
                                test_share, seed)
    return Split({n: a[train] for n, a in arrays.items()}, {n: a[test] for n, a in arrays.items()})


def standardised(data: Split, name: str) -> Split:
    """One input shifted and scaled by the training part's mean and deviation per feature."""
    x = data.train[name]
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation < 1e-8 * max(1.0, float(deviation.max()))] = 1.0
    scale = lambda a: (a - mean) / deviation  # noqa: E731
    return Split({**data.train, name: scale(x)}, {**data.test, name: scale(data.test[name])})


def load_data(model: ModelFile, source: str | None, test_share: float, seed: int) -> Split:
    """The data of ``chainrule train``: a shipped set, an .npz file, or the model file's data().

    Raises:
        DataError: nothing is named, an input has no array, or a file is not readable.
    """
    inputs = model.program.inputs
    if source is None:
        if model.data is None:
            raise DataError(
                "no training data is named",
                expected=f"--data FILE.npz with arrays {', '.join(t.name for t in inputs)}, one of "
                f"{', '.join(SHIPPED)}, or a function data() in {model.path.name}",
            )
        found = model.data()
        if isinstance(found, tuple):
            return Split(*found)
        return split(found, test_share, seed)
    if source in SHIPPED:
        return _shipped(model.program, source, test_share, seed)
    return split(_read_npz(Path(source), [t.name for t in inputs]), test_share, seed)


def _shipped(program: Program, name: str, test_share: float, seed: int) -> Split:
    floats = [t for t in program.inputs if t.dtype == "float"]
    labels = [t for t in program.inputs if t.dtype == "int"]
    features, target = scikit_learn(name)
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
    arrays = {floats[0].name: features.astype(float), other.name: y}
    data = standardised(split(arrays, test_share, seed), floats[0].name)
    return standardised(data, other.name) if name == "diabetes" else data


def _read_npz(path: Path, needed: list[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"there is no data file {str(path)!r}", expected="an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [n for n in needed if n not in archive.files]
            if missing:
                raise DataError(
                    f"{path.name} has no array {missing[0]!r}",
                    expected=f"arrays {', '.join(needed)}", got=", ".join(archive.files),
                )
            return {n: archive[n] for n in needed}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path.name} is no readable .npz file: {error}") from error


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
