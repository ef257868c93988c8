"""``chainrule tour``: the main job done once on real data, without arguments or network."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import codegen
from codegen.datasets import scikit_learn, split
from codegen.loading import load_model
from codegen.progress import progress
from codegen.rows import Rows
from codegen.runs import write_run
from codegen.session import prepare, run
from codegen.training import Plan
from derive.check import check
from derive.differentiate import derive
from derive.document import write_document
from derive.errors import DeclarationError
from derive.optimizers import adam

NETWORK = '''"""The network of the tour: change it, then `chainrule document net.py`."""

import derive as dr

net = dr.Network("digits")
x = net.input("x", "B", 64)
t = net.input("t", "B", dtype=int)
h1 = dr.dense(x, 256, dr.relu)
h2 = dr.dense(h1, 128, dr.relu)
z = dr.dense(h2, 10)
net.loss(dr.cross_entropy(z, t))
'''
_MARK = "net.py"


@dataclass(frozen=True)
class TourResult:
    """Paths of what the tour made, and the figures that it reached."""

    files: dict[str, str]
    accuracy: float
    held_out: int
    checked: str
    seconds: dict[str, float]
    report: str = field(repr=False, default="")

    def to_dict(self) -> dict[str, Any]:
        return {"files": self.files, "accuracy": self.accuracy,
                "held_out": self.held_out, "check": self.checked,
                "seconds": {k: round(v, 2) for k, v in self.seconds.items()}}

    def __str__(self) -> str:
        rows = "\n".join(f"  {what:12} {path}" for what, path in self.files.items())
        return (
            f"{self.report}\n\n"
            f"gradient check: {self.checked}\n"
            f"test accuracy:  {self.accuracy:.2%} on {self.held_out} images kept out of training\n"
            f"training:       {self.seconds['training']:.2f} s by the emitted kernels alone\n"
            f"everything:     {self.seconds['all']:.1f} s\n\n{rows}\n\n"
            f"next: open {self.files['derivation']}, change {self.files['network']}, and run\n"
            f"  chainrule document {self.files['network']} -o mine.html"
        )


def tour(out: Path, force: bool = False, epochs: int = 40) -> TourResult:
    """Declare, derive, check, document, emit and train a classifier of real digits.

    Raises:
        DeclarationError: ``out`` holds files of somebody else's.
    """
    start = time.perf_counter()
    _claim(out, force)
    net = out / _MARK
    net.write_text(NETWORK, encoding="utf-8")
    with progress("deriving"):
        derived = derive(load_model(net).program)
    with progress("checking every gradient numerically"):
        report = check(derived, sizes={"B": 3})
        (out / "check.txt").write_text(f"{report}\n", encoding="utf-8")
    with progress("emitting the kernels"):
        codegen.emit(derived, out / "kernels.py", optimizer=adam(), force=True)
    with progress("writing the derivation"):
        write_document(derived, out / "derivation.html", check=report, force=True)
    images, labels = scikit_learn("digits")
    parts = split(Rows({"x": images / 16.0, "t": labels}), 0.2, seed=0)
    session = prepare(load_model(net).program, parts, Plan(epochs=epochs, batch=32), adam())
    run(session)
    made = write_run(out, session, {"network": "digits", "epochs": epochs, "seed": 0})
    files = {
        "network": str(net), "derivation": str(out / "derivation.html"),
        "kernels": str(out / "kernels.py"), "check table": str(out / "check.txt"),
        "plot": made.get("plot", "not drawn: python -m pip install matplotlib"),
        "weights": made["weights"],
    }
    seconds = {"compile": session.compile_seconds, "training": session.training.at.seconds,
               "all": time.perf_counter() - start}
    return TourResult(files, session.history[-1]["accuracy"], len(parts.test), report.verdict,
                      seconds, str(report))


def _claim(out: Path, force: bool) -> None:
    """The folder is new, empty, an earlier tour's, or taken by force."""
    if out.exists() and not out.is_dir():
        raise DeclarationError(f"{out} is a file", expected="a folder to write to")
    strangers = out.is_dir() and any(out.iterdir()) and not (out / "check.txt").exists()
    if strangers and not force:
        raise DeclarationError(
            f"the folder {out} holds files that the tour did not write",
            mend="name another with --out, or overwrite with --force",
        )
    out.mkdir(parents=True, exist_ok=True)
