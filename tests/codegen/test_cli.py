"""The command line: verbs, exit codes, --json, and errors that no traceback accompanies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from codegen.cli import main
from tests.codegen.support import interpreted

NET = '''
import derive as dr

net = dr.Network("small")
x, t = net.input("x", "B", 4), net.input("t", "B", dtype=int)
net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 5, dr.tanh), 3), t))
'''
RIGHT = '''
import numpy as np

def backward(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    z = h @ W2 + c2
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(t)), t] -= 1
    dz = p / len(t)
    dh = dz @ W2.T * (1 - h * h)
    return {"W1": x.T @ dh, "c1": dh.sum(0), "W2": h.T @ dz, "c2": dz.sum(0)}
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "bad.toml").write_text('model = "net.py"\n[train]\nepoch = 3\n')
    (tmp_path / "kind.toml").write_text('model = "net.py"\n[train]\nepochs = "3"\n')
    (tmp_path / "text.toml").write_text("hello")
    (tmp_path / "wrong.py").write_text(RIGHT.replace("p / len(t)", "p"))
    return tmp_path


def test_doctor_lists_what_is_here(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json"]) == 0
    found = {f["what"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert found["sympy"]["state"] == "ok"
    assert found["import derive"]["detail"] == "ours"
    assert all(f["mend"] for f in found.values() if f["state"] == "broken")


def test_document_is_written_and_never_over_a_stranger(place: Path, capsys):
    assert main(["document", "net.py", "-o", "out.html", "--no-check"]) == 0
    assert "<math" in (place / "out.html").read_text(encoding="utf-8")
    assert main(["document", "net.py", "-o", "out.html", "--no-check"]) == 0  # its own: again
    (place / "mine.html").write_text("precious")
    assert main(["document", "net.py", "-o", "mine.html", "--no-check"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (place / "mine.html").read_text() == "precious"
    assert main(["document", "net.py", "-o", "mine.html", "--no-check", "--force"]) == 0


def test_emit_writes_a_module_and_never_over_a_stranger(place: Path, capsys):
    assert main(["emit", "net.py", "-o", "k.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["module"] == "k.py"
    compile((place / "k.py").read_text(encoding="utf-8"), "k.py", "exec")
    (place / "mine.py").write_text("precious = 1\n")
    assert main(["emit", "net.py", "-o", "mine.py"]) == 2
    assert (place / "mine.py").read_text() == "precious = 1\n"


@pytest.mark.parametrize("stage", ["simplified", "schedule", "memory", "loops", "text"])
def test_every_stage_can_be_looked_at(place: Path, capsys, stage: str):
    assert main(["emit", "net.py", "--show", stage]) == 0
    assert len(capsys.readouterr().out) > 100


def test_verify_says_right_and_wrong_by_exit_code(place: Path, capsys):
    assert main(["verify", "net.py", "right.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]
    assert main(["verify", "net.py", "wrong.py"]) == 1
    assert "W1" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "part"), [
    (RIGHT.replace("def backward", "def _own") + "backward = lambda **p: _own(**p)\n", ""),
    (RIGHT.replace("def backward", "def _own") + "from functools import partial\n"
     "backward = partial(_own)\n", ""),
    ("backward = 3\n", "backward is of type int"),
    ("class backward: pass\n", "backward is a class"),
    (RIGHT.replace("def backward", "def one") + "def two(x): return x\n", "one, two"),
    ("import nothing_of_this_name\n", "hand.py:1"),
    ("import sys\nsys.exit(0)\n", "hand.py raises SystemExit"),
    ("def backward(x:\n    pass\n", "hand.py is not Python"),
], ids=["lambda", "partial", "number", "class", "two", "import", "exit", "syntax"])
def test_verify_takes_the_function_of_a_file_or_says_why_not(place: Path, capsys, text, part):
    (place / "hand.py").write_text(text)
    assert main(["verify", "net.py", "hand.py"]) == (2 if part else 0)
    error = capsys.readouterr().err
    assert part in error and "Traceback" not in error


def test_verify_reads_index_equations_from_a_text_file(place: Path, capsys):
    (place / "hand.txt").write_text("d_W1[i, j] = sum[b](x[b, i]*d_z1[b, j]\n")
    assert main(["verify", "net.py", "hand.txt"]) == 2
    assert "line 1" in capsys.readouterr().err
    (place / "hand.txt").write_text("d_c2[k] = sum[b](z2[b, k])\n")
    assert main(["verify", "net.py", "hand.txt"]) == 1
    assert "d_c2[k]" in capsys.readouterr().out


@pytest.fixture
def data(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Data of three classes; kernels run as plain Python, which takes no time to compile."""
    monkeypatch.setenv("CHAINRULE_CACHE", str(place / "cache"))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    np.savez("data.npz", x=rng.normal(size=(300, 4)) + 3 * np.eye(3, 4)[labels], t=labels)
    with interpreted():
        yield place


CONFIG = """
model = "net.py"
[train]
epochs = 12
batch = 32
[data]
source = "data.npz"
validation_share = 0.1
metrics = ["accuracy", "f1"]
[optimizer]
rule = "adamw"
lr = {kind = "cosine", lr = 0.02, steps = 100}
[stopping]
patience = 5
"""


def test_train_resume_and_report_share_a_folder(data: Path, capsys):
    Path("run.toml").write_text(CONFIG)
    assert main(["train", "run.toml", "--epochs", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["last"][0]["accuracy"] > 0.8 and result["epochs"] == 6
    assert {p.name for p in Path("run").iterdir()} >= {
        "weights.safetensors", "metrics.csv", "metrics.json", "run.json", "checkpoints"}
    assert main(["resume", "run", "--epochs", "12", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["epochs"] == 12 or result["ended"] == "early"
    header, *rows = Path("run/metrics.csv").read_text().splitlines()
    assert header.startswith("epoch,loss,seconds,validation_loss,validation_accuracy,validation_f1")
    assert len(rows) == result["epochs"]
    assert main(["report", "run"]) == 0
    assert "best epoch" in capsys.readouterr().out
    page = Path("run/report.html").read_text()
    assert "<svg" in page and "adamw" in page and "<script" not in page
    assert main(["train", "run.toml", "--epochs", "1"]) == 0  # never over another run
    assert Path("run-2/run.json").exists()
    assert main(["train", "run.toml", "--out", "run"]) == 2
    assert "chainrule resume run" in capsys.readouterr().err


def test_a_changed_network_is_told_tensor_by_tensor(data: Path, capsys):
    assert main(["train", "net.py", "--data", "data.npz", "--epochs", "1", "--seed", "1"]) == 0
    Path("net.py").write_text(NET.replace("(x, 5,", "(x, 6,"))
    assert main(["resume", "run", "--epochs", "2"]) == 2
    assert "W1: expected (4, 6), got (4, 5)" in capsys.readouterr().err
    Path("net.py").write_text(NET.replace("tanh", "sigmoid"))
    assert main(["resume", "run", "--epochs", "2"]) == 2
    assert "equations" in capsys.readouterr().err
    Path("net.py").write_text(NET)
    np.savez("data.npz", x=np.zeros((300, 4)), t=np.arange(300) % 3)
    assert main(["resume", "run", "--epochs", "2"]) == 2
    assert "are not those that the run began with" in capsys.readouterr().err
    assert main(["resume", "elsewhere"]) == 2
    assert "no folder of a run" in capsys.readouterr().err


def test_a_damaged_checkpoint_gives_way_to_the_one_before(data: Path, capsys):
    Path("run.toml").write_text(CONFIG.replace("[stopping]\npatience = 5",
                                               "[checkpoints]\nsteps = 4"))
    assert main(["train", "run.toml", "--epochs", "3"]) == 0
    last = sorted(Path("run/checkpoints").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-9])
    want = load_file("run/weights.safetensors")
    assert main(["resume", "run"]) == 0
    said = capsys.readouterr().err
    assert f"note: the checkpoint {last.name!r} is damaged" in said
    assert "the one before it is used" in said
    found = load_file("run/weights.safetensors")
    assert all((found[name] == array).all() for name, array in want.items())


def test_a_run_that_diverges_says_where_and_is_replayed(data: Path, capsys):
    assert main(["train", "net.py", "--data", "data.npz", "--optimizer", "sgd",
                 "--lr", "1e38"]) == 1
    assert "at step 2" in capsys.readouterr().out
    (file,) = Path("run").glob("not-finite-*")
    assert main(["replay", str(file)]) == 1
    assert "at step 2 (epoch 1" in capsys.readouterr().out
    assert main(["replay", "run/weights.safetensors"]) == 2


def test_diagnose_measures_on_data_beside_the_forecast(data: Path, capsys):
    with interpreted():
        assert main(["diagnose", "net.py", "--data", "data.npz", "--jacobians", "-o", "f.svg",
                     "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["layer"] for r in found["layers"]] == ["z1", "z2"]
    for row in found["layers"]:
        assert 0.3 < row["measured_adjoint"] / row["adjoint"] < 3
    (first, second) = found["jacobians"]
    assert "singular values" in first and "norm <= 1 |W|" in second
    assert "measured" in (data / "f.svg").read_text(encoding="utf-8")


def test_explain_shows_one_gradient(place: Path, capsys):
    assert main(["explain", "net.py", "W1"]) == 0
    assert "W1" in capsys.readouterr().out


def test_what_only_training_needs_is_not_deployed(place: Path, capsys):
    (place / "drops.py").write_text("""
import derive as dr

def network(training=True):
    net = dr.Network("small")
    x, t = net.input("x", "B", 4), net.input("t", "B", dtype=int)
    x = dr.dropout(x, 0.3, net.random()) if training else x
    net.loss(dr.cross_entropy(dr.dense(x, 3), t))
    return net
""")
    np.savez(place / "weights.npz", W1=np.eye(4, 3), c1=np.zeros(3))
    assert main(["deploy", "drops.py", "weights.npz", "-o", "use.py"]) == 0, capsys.readouterr()
    assert "seed" not in (place / "use.py").read_text()


BAD = [
    (["document", "missing.py"], "no model file 'missing.py'"),
    (["document", "net.py", "-o", "out.docx"], ".docx"),
    (["emit", "net.py", "--optimizer", "adan"], "did you mean 'adam'"),
    (["emit", "net.py", "--target", "tpu"], "tpu"),
    (["emit", "net.py", "--show", "shedule"], "did you mean 'schedule'"),
    (["verify", "net.py", "missing.py"], "no file 'missing.py'"),
    (["verify", "net.py", "bad.toml"], "index equations in a .net or .txt file"),
    (["train", "net.py"], "--data"),
    (["train", "net.py", "--data", "digits", "--test-share", "1.5"], "test_share is a share"),
    (["train", "net.py", "--data", "iris", "--patience", "3"], "validation_share"),
    (["train", "net.py", "--data", "iris", "--optimizer", "adan"], "did you mean 'adam'"),
    (["train", "missing.toml"], "no configuration 'missing.toml'"),
    (["train", "bad.toml"], "did you mean 'epochs'"),
    (["train", "kind.toml"], "epochs in kind.toml is of the wrong kind"),
    (["train", "text.toml"], "is not TOML"),
    (["report", "missing"], "no folder of a run"),
    (["resume", "missing"], "no folder of a run"),
    (["replay", "missing.safetensors"], "no checkpoint 'missing.safetensors'"),
    (["replay", "net.py"], "pickled files can run code"),
    (["train", "net.py", "--data", "missing.npz"], "missing.npz"),
    (["explain", "net.py", "W9"], "'W9'"),
]


@pytest.mark.parametrize(("arguments", "part"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_usage_is_said_in_one_error(place: Path, capsys, arguments: list[str], part: str):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and part in error and "Traceback" not in error


def test_an_error_in_the_model_file_is_shown_at_its_line(place: Path, capsys):
    (place / "net.py").write_text("import derive as dr\nnet = dr.Network('n')\n1 / 0\n")
    assert main(["document", "net.py"]) == 2
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error and "net.py:3" in error and "Traceback" not in error


def test_labels_out_of_range_and_nan_in_data_are_refused(place: Path, capsys):
    x = np.zeros((10, 4))
    np.savez("labels.npz", x=x, t=np.arange(10) % 4)
    assert main(["train", "net.py", "--data", "labels.npz", "--test-share", "0"]) == 2
    error = capsys.readouterr().err
    assert "'t'" in error and "3" in error
    x[3, 1] = np.nan
    np.savez("nan.npz", x=x, t=np.arange(10) % 3)
    assert main(["train", "net.py", "--data", "nan.npz", "--test-share", "0"]) == 2
    assert "'x'" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_compiled(
        data: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("codegen.runs.os.access", lambda path, mode: False)  # root may do all
    monkeypatch.setattr("codegen.runs.prepare", lambda *given: pytest.fail("compiled"))
    assert main(["train", "net.py", "--data", "data.npz", "--out", "far/away"]) == 2
    said = capsys.readouterr().err
    assert "Permission denied" in said and str(data.parent) in said
    assert not Path("far").exists()


@pytest.mark.parametrize(("arguments", "code", "part"), [
    (["--device", "cude"], 2, "did you mean 'cuda'"),
    (["--device", "cpu", "--dtype", "bfloat16"], 2, "cannot store intermediates as bfloat16")])
def test_a_device_that_does_not_fit_is_said_before_anything_is_written(
        data: Path, capsys, arguments: list[str], code: int, part: str):
    assert main(["train", "net.py", "--data", "data.npz", "--out", "never", *arguments]) == code
    assert part in capsys.readouterr().err and not Path("never").exists()


def test_a_run_says_where_it_ran(data: Path, capsys):
    """An explicit GPU that is not there is an error; "auto" takes the CPU then."""
    from codegen.cuda_device import find_device
    from derive.errors import MissingError

    try:
        find_device()
        pytest.skip("there is a device here")
    except MissingError:
        pass
    given = ["train", "net.py", "--data", "data.npz", "--epochs", "1", "--out", "run"]
    assert main([*given, "--device", "cuda"]) == 4
    said = capsys.readouterr().err
    assert "mend" in said and not Path("run").exists()
    assert main([*given, "--device", "auto"]) == 0
    assert json.loads(Path("run/run.json").read_text())["config"]["device"] == "cpu"
