"""``chainrule train``, ``resume`` and ``report``: a run and its folder.

The folder of a run holds ``run.json`` (configuration, versions, seeds, what the data were),
``checkpoints/``, ``metrics.csv`` and ``metrics.json``, ``flow.json`` (norms of signals and
adjoints), ``curves.svg``, ``weights.safetensors`` and, if a number stopped being finite, a file
that replays that step.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np

from codegen.charts import draw_curves
from codegen.checkpoint import Store
from codegen.configuration import RunConfig
from codegen.datasets import Parts, load_data
from codegen.loading import ModelFile, load_model
from codegen.session import Ended, Session, prepare, run
from derive import __version__
from derive.errors import DataError, DeclarationError, MissingError
from derive.files import write_atomically

RUN = "run.json"
_PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "sympy", "safetensors")
Row = Mapping[str, float]


@dataclass(frozen=True)
class RunResult:
    """What a run reached: per-epoch rows, seconds of training alone, and the files written."""

    name: str
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    compile_seconds: float
    files: dict[str, str]
    ended: Ended
    messages: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.name, "epochs": len(self.history), "last": self.history[-1:],
                "best_epoch": self.best_epoch, "training_seconds": round(self.seconds, 3),
                "compile_seconds": round(self.compile_seconds, 3), "files": self.files,
                "ended": self.ended.reason, "detail": self.ended.detail,
                "replay": self.ended.replay, "messages": list(self.messages)}

    def __str__(self) -> str:
        head = summary(self.name, self.history, self.seconds)
        rows = [f"  {what:11} {path}" for what, path in self.files.items()]
        tail = {
            "interrupted": ["stopped; what was learnt is saved: chainrule resume "
                            + str(Path(self.files.get("settings", "run")).parent)],
            "early": [f"stopped early: epoch {self.best_epoch} was the best, its weights are kept"],
            "not finite": [f"stopped: {self.ended.detail}",
                           f"  replay it with: chainrule replay {self.ended.replay}"],
        }.get(self.ended.reason, [])
        return "\n".join([head, *rows, *tail])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # a notebook shows what the command prints


def summary(name: str, history: Sequence[Row], seconds: float) -> str:
    """One line of what a run reached."""
    last = history[-1] if history else {}
    skip = ("epoch", "seconds", "lr")
    share = ("accuracy", "f1")
    figures = ", ".join(
        f"{key.replace('_', ' ')} {format(value, '.2%' if key.endswith(share) else '.4g')}"
        for key, value in last.items() if key not in skip)
    return f"{name}: {len(history)} epochs in {seconds:.2f} s; {figures}"


# -- the folder -----------------------------------------------------------------------------------
def choose_folder(out: str, force: bool = False) -> Path:
    """The folder of a new run: the one that is named, or the first free of run, run-2, …

    Raises:
        DeclarationError: it holds another run, or files of somebody else's.
        PermissionError: it cannot be made, or not be written to.
    """
    if not out:
        number = 1
        while True:
            folder = Path("run" if number == 1 else f"run-{number}")
            if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
                return _writable(folder)
            number += 1
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DeclarationError(f"{folder} is a file", expected="a folder to write to")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        is_run = (folder / RUN).exists()
        raise DeclarationError(
            f"the folder {folder} holds " + ("a run" if is_run else "other files"),
            expected="a new folder, or an empty one",
            mend=(f"chainrule resume {folder}, " if is_run else "") + "another --out, or --force")
    return _writable(folder)


def _writable(folder: Path) -> Path:
    """The same folder, if it can be made and written to: said before minutes of compiling."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    return folder


def write_metrics(folder: Path, history: Sequence[Row]) -> dict[str, str]:
    """``metrics.csv`` and ``metrics.json``, each all or nothing."""
    columns = list(dict.fromkeys(name for row in history for name in row)) or ["epoch"]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(dict(row) for row in history)
    files = {"metrics": folder / "metrics.csv", "metrics_json": folder / "metrics.json"}
    write_atomically(files["metrics"], text.getvalue().encode())
    write_atomically(files["metrics_json"], json.dumps(list(history), indent=1).encode())
    return {what: str(path) for what, path in files.items()}


def write_weights(path: Path, weights: Mapping[str, np.ndarray], notes: Mapping[str, str]
                  ) -> Path:
    """Parameters and states under their own names, as safetensors."""
    from derive.importing.arrays import safetensors

    arrays = {n.partition("/")[2]: np.ascontiguousarray(v) for n, v in weights.items()}
    write_atomically(path, bytes(safetensors().numpy.save(arrays, metadata=dict(notes))))
    return path


def write_run(folder: Path, session: Session, settings: Mapping[str, Any]) -> dict[str, str]:
    """Everything of a run but its checkpoints; returns the files by what they hold."""
    at, training = session.training.at, session.training
    files = {"settings": str(folder / RUN)}
    write_atomically(folder / RUN, (json.dumps(dict(settings), indent=1) + "\n").encode())
    chosen = _keeps_best(session) and training.best
    weights = training.best if chosen else session.model.weights
    epoch = at.best_epoch if chosen else len(at.history)
    files["weights"] = str(write_weights(folder / "weights.safetensors", weights, {
        "network": session.derived.name, "derivation": session.derived.hash,
        "epoch": str(epoch)}))
    files |= write_metrics(folder, at.history)
    files |= session.health.write(folder) if session.health is not None else {}
    if at.history:
        try:
            picture = draw_curves(at.history)
        except MissingError:
            return files  # an extra: the run itself is whole without it, and doctor names it
        write_atomically(folder / "curves.svg", picture.encode())
        files["plot"] = str(folder / "curves.svg")
    return files


def _keeps_best(session: Session) -> bool:
    """Whether the best epoch can be told from rows that were not trained on."""
    plan, history = session.training.plan, session.history
    return bool(plan.monitor or (history and "validation_loss" in history[-1]))


# -- the verbs ----------------------------------------------------------------------------------
def train(config: RunConfig, force: bool = False, team: Any = None) -> RunResult:
    """Begin a run.

    Args:
        team: where several ranks train together, this rank's `codegen.mpi.team.Team`.

    Raises:
        ChainruleError: something does not fit; nothing was trained, nothing written.
        OSError: the folder cannot be written to.
    """
    file = load_model(config.model)
    parts = _data(file, config)
    if team is None:
        folder = choose_folder(config.out, force)
    else:
        folder = Path(team.meet(str(choose_folder(config.out, force)) if team.first else "")[0])
    session = _session(file, config, parts, folder, team)
    device = session.model.device
    config = replace(config, out=str(folder), threads=session.model.threads, device=device,
                     products=config.products if device == "cuda" else "own",
                     model=str(Path(config.model).resolve()), data=_absolute(config))
    settings = {
        "config": config.to_dict(), "network": session.derived.name,
        "derivation": session.derived.hash, "seed": config.plan.seed,
        "data": {n: {"rows": len(r), "fingerprint": r.fingerprint()}
                 for n, r in {"train": parts.train, **parts.held_out}.items()},
        "versions": {"chainrule": __version__, "python": platform.python_version(),
                     **{name: version_of(name) for name in _PACKAGES}},
        "machine": f"{platform.machine()} {platform.system()}", "command": sys.argv[1:],
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _compare(team, settings, session)  # before anything of another run is written over
    if team is None or team.first:
        folder.mkdir(parents=True, exist_ok=True)
        if session.training.store is not None:
            session.training.store.clear()
        write_atomically(folder / RUN, (json.dumps(settings, indent=1) + "\n").encode())
    _begin(team, folder)
    return _go(session, folder, settings)


def resume(folder: Path, epochs: int | None = None, team: Any = None,
           device: str | None = None) -> RunResult:
    """Go on from the last whole checkpoint of a run.

    Args:
        epochs: how many in all; by default as many as the run was to have.
        device: where to go on; on another one than before the bits are others.

    Raises:
        DataError: the network or the data are not those of before; no checkpoint is whole.
    """
    settings = read_run(folder)
    config = RunConfig.from_dict(settings["config"]).changed(
        epochs=epochs, device=device, products="own" if device == "cpu" else None)
    config = replace(config, out=str(folder))
    file = load_model(config.model)
    parts = _data(file, config)
    for name, rows in {"train": parts.train, **parts.held_out}.items():
        before = settings["data"].get(name, {}).get("fingerprint")
        if rows.fingerprint() != before:
            raise DataError(f"the {name} data are not those that the run began with",
                            mend="begin a new run with `chainrule train`")
    session = _session(file, config, parts, folder, team)
    store = session.training.store
    found = store.latest(session.training.warn) if store else None
    if found is not None:
        session.training.restore(found)
    if session.derived.hash != settings["derivation"]:
        raise DataError(f"the equations of {file.path.name} are not those of the run",
                        mend="put the file back, or begin a new run with `chainrule train`")
    config = replace(config, device=session.model.device)
    settings = {**settings, "config": config.to_dict()}
    _compare(team, settings, session)
    _begin(team, folder)
    return _go(session, folder, settings)


def _compare(team: Any, settings: Mapping[str, Any], session: Session) -> None:
    """Before the first step: do all ranks run the same thing?"""
    if team is None:
        return
    config, training = settings["config"], session.training
    own = {"the network": f"{session.derived.name} ({session.derived.hash})",
           "the versions": ", ".join(f"{n} {v}" for n, v in {
               "chainrule": __version__, **{n: version_of(n) for n in _PACKAGES}}.items()),
           "dtype and optimizer": f"{config['dtype']}, {config['optimizer']}",
           "the plan": f"{config['plan']}, {config['ranks']}",
           "the step to begin with": str(training.done),
           **{f"the {n} data": f"{d['rows']} rows, checksum {d['fingerprint']}"
              for n, d in settings["data"].items()}}
    team.compare(own)


def _begin(team: Any, folder: Path) -> None:
    """The folder is there: from here on a launcher may go on from it."""
    if team is not None:
        team.meet()
        team.training(str(folder))


def read_run(folder: Path) -> dict[str, Any]:
    """The ``run.json`` of a run's folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / RUN
    if not path.is_file():
        raise DataError(f"{str(folder)!r} is no folder of a run", expected=f"a file {RUN} in it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["config"], found["data"], found["derivation"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r} is damaged", got=str(error)[:200]) from None
    return found


def _data(file: ModelFile, config: RunConfig) -> Parts:
    data = config.data
    return load_data(file, data.source, test_share=data.test_share,
                     validation_share=data.validation_share, seed=config.plan.seed,
                     columns=data.columns, standardise=data.standardise)


def _absolute(config: RunConfig) -> Any:
    path = Path(config.data.source)
    named = config.data.source and path.exists()
    return replace(config.data, source=str(path.resolve())) if named else config.data


def _session(file: ModelFile, config: RunConfig, parts: Parts, folder: Path,
             team: Any = None) -> Session:
    return prepare(file.program, parts, config.plan, config.make_optimizer(), dtype=config.dtype,
                   device=config.device, products=config.products,
                   threads=config.threads, evaluation=file.evaluation,
                   data=config.data, team=team, ranks=config.ranks,
                   store=Store(folder / "checkpoints", config.plan.keep),
                   notes={"model": str(Path(config.model).resolve()), "dtype": config.dtype,
                          "optimizer": config.optimizer, "version": __version__})


def _go(session: Session, folder: Path, settings: dict[str, Any]) -> RunResult:
    training, team = session.training, session.training.team
    first = team is None or team.first
    ended = run(session, folder, _writer(session, folder) if first else lambda: None)
    settings = {**settings, "ended": ended.reason, "detail": ended.detail,
                "epochs": len(session.history), "training_seconds": training.at.seconds,
                "compile_seconds": session.compile_seconds,
                "best_epoch": training.at.best_epoch, "messages": session.messages}
    files = write_run(folder, session, settings) if first else {}
    return RunResult(session.derived.name, session.history, training.at.best_epoch,
                     training.at.seconds, session.compile_seconds, files, ended,
                     tuple(session.messages))


def _writer(session: Session, folder: Path) -> Callable[[], None]:
    """Metrics while the run goes on, at most once a second."""
    last = [0.0]

    def write() -> None:
        if time.monotonic() - last[0] < 1:
            return
        last[0] = time.monotonic()
        try:
            write_metrics(folder, session.history)
        except OSError as error:
            session.messages.append(f"no metrics written: {error.strerror}")

    return write
