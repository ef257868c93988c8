"""Tables with named columns, CSV or Parquet, as the arrays of a network's inputs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from derive.errors import DataError, MissingError, unknown_name
from derive.program import Program, Tensor

Table = dict[str, np.ndarray]  # float64, int64 or str columns by name


def read_table(path: Path) -> Table:
    """The columns of a .csv file (with names in its first line) or a .parquet file.

    Raises:
        DataError: not readable, a row of another length, an empty cell (row and column named).
        MissingError: Parquet is asked for, and pyarrow is not installed.
    """
    return _parquet(path) if path.suffix == ".parquet" else _csv(path)


def _csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is no readable CSV file: {error}") from error
    if len(rows) < 2:
        raise DataError(f"{path.name} has no rows", expected="a line of names, then rows")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) != len(names):
        raise DataError(f"{path.name} names a column twice", got=", ".join(names))
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise DataError(f"row {number} of {path.name} has another length",
                            expected=f"{len(names)} cells", got=len(row))
        for name, cell in zip(names, row, strict=True):
            if not cell.strip():
                raise DataError(f"a cell of {path.name} is empty",
                                got=f"row {number}, column {name!r}")
    return {name: _column([row[n].strip() for row in rows[1:]]) for n, name in enumerate(names)}


def _column(cells: list[str]) -> np.ndarray:
    for kind in (int, float):
        try:
            return np.array([kind(c) for c in cells])
        except (ValueError, OverflowError):
            continue
    return np.array(cells)


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingError("Parquet files are read by pyarrow, which is not installed",
                           mend='python -m pip install "chainrule[data]"') from error
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {error}") from error
    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            raise DataError(f"the column {name!r} of {path.name} has {column.null_count} nulls",
                            expected="a value in every row")
        values = column.to_numpy()
        found[name] = values if values.dtype.kind in "iufb" else values.astype(str)
    return found


def table_arrays(program: Program, table: Table, columns: Mapping[str, list[str]], where: str
                 ) -> dict[str, np.ndarray]:
    """An array for each input: the columns that are named for it, else the column of its own
    name; an input that is left takes the columns that are left, in order.

    Words in the column of an integer input become class numbers, in alphabetical order.

    Raises:
        DataError: an input gets no columns, or words where numbers are needed.
        DeclarationError: a column or an input that does not exist.
    """
    inputs = {t.name: t for t in program.inputs}
    for name in columns:
        if name not in inputs:
            raise unknown_name("input", name, inputs)
    chosen = {n: list(c) for n, c in columns.items()}
    for name in inputs:
        if name not in chosen and name in table:
            chosen[name] = [name]
    for names in chosen.values():
        for name in names:
            if name not in table:
                raise unknown_name(f"column of {where}", name, table)
    taken = {c for names in chosen.values() for c in names}
    left = [c for c in table if c not in taken]
    open_inputs = [n for n in inputs if n not in chosen]
    if len(open_inputs) == 1:
        chosen[open_inputs[0]] = left
    elif open_inputs:
        raise DataError(
            f"which columns of {where} belong to {' and '.join(open_inputs)}?",
            expected='[data.columns] with, say, t = ["price"]', got=", ".join(table))
    return {n: _array(t, [table[c] for c in chosen[n]], chosen[n]) for n, t in inputs.items()}


def _array(tensor: Tensor, columns: list[np.ndarray], names: list[str]) -> np.ndarray:
    if not columns:
        raise DataError(f"no column is left for the input {tensor.name!r}")
    made = []
    for column, name in zip(columns, names, strict=True):
        if column.dtype.kind not in "iufb":
            if tensor.dtype != "int":
                raise DataError(f"the column {name!r} holds words", expected="numbers",
                                got=repr(str(column[0])))
            column = np.unique(column, return_inverse=True)[1]
        made.append(column.astype(np.int64 if tensor.dtype == "int" and column.dtype.kind in "iub"
                                  else float))
    if tensor.rank == 1:
        if len(made) != 1:
            raise DataError(f"the input {tensor.name!r} takes one column", got=", ".join(names))
        return made[0]
    whole = np.stack(made, axis=1)
    inner = [int(s) for s in tensor.shape[1:] if s.is_Integer]
    if len(inner) == tensor.rank - 1 and int(np.prod(inner)) == whole.shape[1]:
        return whole.reshape(len(whole), *inner)
    return whole
