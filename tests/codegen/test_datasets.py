"""Data from files: what is read, how it is split, and what is refused before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import derive as dr
from codegen.datasets import load_data, split
from codegen.loading import ModelFile
from codegen.rows import Rows
from derive.errors import ChainruleError, DataError
from derive.program import Program


def network(features: int = 2, labels: bool = True) -> Program:
    net = dr.Network("small")
    x = net.input("x", "B", features)
    z = dr.dense(x, 3 if labels else 1)
    if labels:
        net.loss(dr.cross_entropy(z, net.input("t", "B", dtype=int)))
    else:
        net.loss(dr.mean_squared_error(z, net.input("t", "B", 1)))
    return net.program()


def load(source: Path | str, program: Program | None = None, **options: object):
    file = ModelFile(Path("net.py"), program or network())
    given = {"test_share": 0.25, "validation_share": 0.0, "seed": 0, **options}
    return load_data(file, str(source), **given)  # type: ignore[arg-type]


CSV = "a,b,kind\n" + "".join(f"{n},{n / 2},{'red green blue'.split()[n % 3]}\n" for n in range(12))


def test_a_table_fills_the_inputs_by_name_and_order(tmp_path: Path):
    (tmp_path / "d.csv").write_text(CSV)
    parts = load(tmp_path / "d.csv", columns={"t": ["kind"]})
    x, t = (parts.train.take()[n] for n in "xt")
    assert x.shape == (9, 2) and (x[:, 1] == x[:, 0] / 2).all()
    words = np.array([2, 1, 0])  # red, green, blue in alphabetical order
    np.testing.assert_array_equal(t, words[x[:, 0].astype(int) % 3])
    (tmp_path / "named.csv").write_text(CSV.replace("kind", "t"))
    again = load(tmp_path / "named.csv").train.take()
    np.testing.assert_array_equal(again["x"], x)
    swapped = load(tmp_path / "d.csv", columns={"t": ["kind"], "x": ["b", "a"]}).train.take()["x"]
    np.testing.assert_array_equal(swapped, x[:, ::-1])


def test_parquet_is_the_same_table(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    (tmp_path / "d.csv").write_text(CSV)
    parquet.write_table(csv.read_csv(tmp_path / "d.csv"), tmp_path / "d.parquet")
    one, other = (load(tmp_path / f"d.{kind}", columns={"t": ["kind"]}).train.take()
                  for kind in ("csv", "parquet"))
    for name in "xt":
        np.testing.assert_array_equal(one[name], other[name])
    parquet.write_table(pyarrow.table({"a": [1.0, None], "b": [1.0, 2], "t": [0, 1]}),
                        tmp_path / "null.parquet")
    with pytest.raises(DataError, match=r"'a'.*1 nulls"):
        load(tmp_path / "null.parquet")


def test_a_folder_of_npy_files_is_memory_mapped(tmp_path: Path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(20, 2)))
    np.save(tmp_path / "t.npy", np.arange(20) % 3)
    parts = load(tmp_path)
    assert not parts.train.resident and len(parts.train) + len(parts.test) == 20
    x = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(parts.test.take()["x"], x[parts.test.numbers])


BAD = {
    "short.csv": ("a,b,t\n1,2\n", "row 2 of short.csv has another length"),
    "empty.csv": ("a,b,t\n1,,2\n", "row 2, column 'b'"),
    "words.csv": ("a,b,t\n1,x,2\n", "'b' holds words"),
    "none.csv": ("a,b,t\n", "has no rows"),
    "twice.csv": ("a,a,t\n1,2,3\n", "names a column twice"),
    "two.csv": ("a,b,c\n1,2,3\n", "which columns of two.csv belong to x and t"),
    "bytes.npz": ("hello", "no readable .npz file"),
    "pickled.pkl": ("x", "pickled files can run code"),
    "net.docx": ("x", "is not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_read_say_why(name: str, tmp_path: Path):
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ChainruleError) as error:
        load(tmp_path / name)
    assert message in str(error.value)


def test_a_pickled_array_is_refused(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=np.array([{}], dtype=object), t=np.zeros(1, int))
    with pytest.raises(DataError, match=r"no readable \.npz"):
        load(tmp_path / "d.npz")
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "t.npy", np.zeros(1, int))
    with pytest.raises(DataError, match=r"no readable \.npy"):
        load(tmp_path)


def test_a_column_or_input_that_is_not_there_suggests_the_nearest(tmp_path: Path):
    (tmp_path / "d.csv").write_text(CSV)
    with pytest.raises(ChainruleError, match="did you mean 'kind'"):
        load(tmp_path / "d.csv", columns={"t": ["kid"]})
    with pytest.raises(ChainruleError, match="'target'"):
        load(tmp_path / "d.csv", columns={"target": ["kind"]})


# -- splitting ------------------------------------------------------------------------------------
def test_each_class_keeps_its_share():
    t = np.repeat([0, 1], [80, 20])
    parts = split(Rows({"x": np.arange(100.0), "t": t}), 0.2, seed=3, validation_share=0.1)
    counts = {n: np.bincount(r.take()["t"]).tolist() for n, r in parts.held_out.items()}
    assert counts == {"validation": [8, 2], "test": [16, 4]}
    rows = [set(r.take()["x"]) for r in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, rows)) == 100 and not rows[0] & rows[1] and not rows[0] & rows[2]
    again = split(Rows({"x": np.arange(100.0), "t": t}), 0.2, seed=3, validation_share=0.1)
    assert set(again.test.take()["x"]) == rows[2]
    other = split(Rows({"x": np.arange(100.0), "t": t}), 0.2, seed=4)
    assert set(other.test.take()["x"]) != rows[2]


def test_classes_of_a_row_or_two_are_held_out_together():
    t = np.concatenate([np.zeros(60, int), np.arange(1, 41)])  # forty classes of one row each
    parts = split(Rows({"x": np.arange(100.0), "t": t}), 0.25, seed=3)
    assert len(parts.test) == 25
    assert (parts.test.take()["t"] == 0).sum() == 15


def test_whole_numbers_that_no_loss_picks_by_are_no_classes(tmp_path: Path):
    net = dr.Network("an index per row")
    row, t = net.input("row", "B", dtype=int), net.input("t", "B", 1)
    net.loss(dr.mean_squared_error(dr.dense(dr.embedding(row, 40, 3), 1), t))
    np.savez(tmp_path / "d.npz", row=np.zeros(40, int), t=np.zeros((40, 1)))
    assert len(load(tmp_path / "d.npz", net.program()).test) == 10


def test_a_bad_row_has_the_number_that_it_has_in_the_file(tmp_path: Path):
    x, t = np.zeros((30, 2)), np.arange(30) % 3
    x[17, 1] = np.nan
    np.savez(tmp_path / "d.npz", x=x, t=t)
    with pytest.raises(DataError, match="nan at b=17, i=1"):
        load(tmp_path / "d.npz")
    t[7] = 3
    np.savez(tmp_path / "d.npz", x=np.zeros((30, 2)), t=t)
    with pytest.raises(DataError, match=r"holds 3 at \[7\]"):
        load(tmp_path / "d.npz")


def binary(columns: int) -> Program:
    net = dr.Network("log-odds")
    x, t = net.input("x", "B", 2), net.input("t", "B", columns)
    net.loss(dr.binary_cross_entropy(dr.dense(x, columns), t))
    return net.program()


def test_targets_of_0_and_1_are_classes_of_a_loss_of_log_odds(tmp_path: Path):
    t = np.repeat([0.0, 1.0], [92, 8])[:, None]
    np.savez(tmp_path / "d.npz", x=np.zeros((100, 2)), t=t)
    for seed in range(5):
        assert load(tmp_path / "d.npz", binary(1), seed=seed).test.take()["t"].sum() == 2
    np.savez(tmp_path / "d.npz", x=np.zeros((100, 2)), t=np.where(t == 1, 0.7, t))  # no classes
    assert len(load(tmp_path / "d.npz", binary(1)).test) == 25
    np.savez(tmp_path / "d.npz", x=np.zeros((100, 2)), t=np.hstack([t, 1 - t]))  # nor these
    assert len(load(tmp_path / "d.npz", binary(2)).test) == 25
    np.savez(tmp_path / "d.npz", x=np.zeros((100, 2)), t=np.ones((100, 1)))
    with pytest.raises(DataError, match="of one class"):
        load(tmp_path / "d.npz", binary(1))


def test_an_empty_or_single_class_split_is_refused():
    with pytest.raises(DataError, match="of one class"):
        split(Rows({"x": np.zeros((9, 2)), "t": np.full(9, 1)}), 0.2, seed=0)
    with pytest.raises(DataError, match="no rows are left"):
        split(Rows({"x": np.zeros((0, 2))}), 0.2, seed=0)
    with pytest.raises(DataError, match="different numbers of rows"):
        Rows({"x": np.zeros((3, 2)), "t": np.zeros(2, int)})


def test_standardising_uses_the_rows_that_are_trained_on(tmp_path: Path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(5, 3, (40, 2)), t=rng.normal(size=(40, 1)))
    parts = load(tmp_path / "d.npz", network(labels=False), standardise=True)
    x = parts.train.take()["x"]
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(0), 1)
    assert abs(parts.test.take()["x"].mean()) > 1e-3
