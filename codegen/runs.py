"""A training run from the command line: data in, a folder with weights, metrics and a plot out."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codegen.charts import write_curves
from codegen.datasets import Split, class_scores, load_data
from codegen.loading import ModelFile
from codegen.progress import progress
from derive import __version__
from derive.differentiate import derive
from derive.errors import MissingError
from derive.optimizers import Optimizer
from derive.program import Program


@dataclass(frozen=True)
class RunResult:
    """What a run reached: per-epoch rows, seconds of training alone, and the files written."""

    name: str
    history: list[dict[str, float]]
    seconds: float
    compile_seconds: float
    files: dict[str, str]
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.name, "epochs": len(self.history), "last": self.history[-1:],
                "training_seconds": round(self.seconds, 3),
                "compile_seconds": round(self.compile_seconds, 3), "files": self.files,
                "interrupted": self.interrupted}

    def __str__(self) -> str:
        last = self.history[-1] if self.history else {}
        figures = ", ".join(
            f"{name.replace('_', ' ')} {format(last[name], form)}"
            for name, form in (("loss", ".4g"), ("test_loss", ".4g"), ("accuracy", ".2%"))
            if name in last
        )
        head = f"{self.name}: {len(self.history)} epochs in {self.seconds:.2f} s; {figures}"
        rows = [f"  {what:11} {path}" for what, path in self.files.items()]
        tail = ["stopped early; what was learnt is saved"] if self.interrupted else []
        return "\n".join([head, *rows, *tail])


def scorer(program: Program, data: dict[str, np.ndarray], model: Any) -> Callable[[], float] | None:
    """Accuracy on held-out data, where the loss picks scores by integer labels."""
    pair = class_scores(program)
    if pair is None or not len(next(iter(data.values()), ())):
        return None
    scores, labels = pair
    given = {n: a for n, a in data.items() if n != labels}

    def accuracy() -> float:
        z = model.predict(outputs=[scores], **given)[scores]
        return float((np.argmax(z, axis=-1) == data[labels]).mean())

    return accuracy


def fit(derived: Program, data: Split, *, optimizer: Optimizer, dtype: str, epochs: int,
        batch: int, seed: int) -> tuple[Any, list[dict[str, float]], float, float, bool]:
    """Compile and train; returns the model, its history, and the seconds of each part."""
    import codegen

    start = time.perf_counter()
    with progress("compiling the kernels"):
        model = codegen.compile(derived, optimizer=optimizer, dtype=dtype)
        model.initialize(seed)
        first = {n: a[:batch] for n, a in data.train.items()}
        model.loss(**first)
    compiled = time.perf_counter() - start
    accuracy = scorer(derived, data.test, model)
    history: list[dict[str, float]] = []
    inside = 0.0
    interrupted = False
    order = np.random.default_rng(seed)
    with progress("training", epochs) as show:
        try:
            for epoch in range(1, epochs + 1):
                begun = time.perf_counter()
                loss = model.epoch(data.train, batch, rng=order)
                inside += time.perf_counter() - begun
                row = {"epoch": epoch, "loss": float(loss), "seconds": inside}
                if len(next(iter(data.test.values()), ())):
                    row["test_loss"] = float(model.loss(**data.test))
                if accuracy:
                    row["accuracy"] = accuracy()
                history.append(row)
                show(epoch, f"loss {row['loss']:.4f}"
                     + (f", accuracy {row['accuracy']:.2%}" if accuracy else ""))
        except KeyboardInterrupt:
            interrupted = True
    return model, history, inside, compiled, interrupted


def write_run(out: Path, model: Any, history: list[dict[str, float]],
              configuration: Mapping[str, Any]) -> dict[str, str]:
    """Weights, metrics (CSV), configuration (JSON) and the plot, where it can be drawn."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"weights": out / "weights.npz", "metrics": out / "metrics.csv",
             "settings": out / "settings.json"}
    model.save(files["weights"])
    with files["metrics"].open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(history[0]) if history else ["epoch"])
        table.writeheader()
        table.writerows(history)
    text = json.dumps(dict(configuration), indent=1, default=str)
    files["settings"].write_text(text + "\n", encoding="utf-8")
    if history:
        try:
            files["plot"] = write_curves(out / "curves.svg", history)
        except MissingError:
            pass  # an extra: the run itself is whole without it, and doctor names it
    return {what: str(path) for what, path in files.items()}


def train(model: ModelFile, *, source: str | None, epochs: int, batch: int, optimizer: Optimizer,
          dtype: str, seed: int, test_share: float, out: Path) -> RunResult:
    """``chainrule train``: see the command's help for the options."""
    data = load_data(model, source, test_share, seed)
    derived = derive(model.program)
    trained, history, inside, compiled, interrupted = fit(
        derived, data, optimizer=optimizer, dtype=dtype, epochs=epochs, batch=batch, seed=seed)
    files = write_run(out, trained, history, {
        "network": model.program.name, "hash": derived.hash, "version": __version__,
        "data": source, "optimizer": optimizer.name, "settings": optimizer.settings,
        "epochs": epochs, "batch": batch, "seed": seed, "dtype": dtype,
    })
    return RunResult(model.program.name, history, inside, compiled, files, interrupted)
