"""``chainrule search``: settings of a run chosen by Optuna, in parallel processes, resumable.

The configuration of a run gets a section that names what is tried:

    [search]
    trials = 40
    monitor = "validation_loss"

    [search.space]
    "optimizer.lr" = {low = 1e-4, high = 1e-1, log = true}
    "train.batch" = [16, 32, 64]
    "model.units" = {low = 8, high = 64, step = 8}     # an argument of network()

All trials lie in one journal file, which several processes share: a search that was stopped goes on
where it was, and a trial that is worse than the median of the others at the same epoch is cut off.
"""

from __future__ import annotations

import html
import inspect
import json
import math
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codegen.charts import as_svg, new_figure
from codegen.configuration import RunConfig, read_config
from codegen.datasets import load_data
from codegen.loading import ModelFile, load_model, run_file
from codegen.session import prepare, run
from codegen.training import Plan, smaller_is_better
from derive.errors import DataError, DeclarationError, MissingError, unknown_name
from derive.files import write_atomically
from derive.program import as_program

JOURNAL = "trials.log"
_PLACES = ("optimizer", "train", "model", "stopping")


@dataclass(frozen=True)
class Search:
    """What is searched: the run that trials change, their number, and the space by dotted name."""

    config: RunConfig
    trials: int
    monitor: str
    space: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """The best trial, how many there were, and the page."""

    best: dict[str, Any]
    score: float
    counts: dict[str, int]
    monitor: str
    page: str

    def to_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": self.monitor, "score": self.score,
                "trials": self.counts, "page": self.page}

    def __str__(self) -> str:
        rows = [f"  {name:24} {value}" for name, value in self.best.items()]
        counted = ", ".join(f"{n} {state}" for state, n in self.counts.items())
        return "\n".join([f"best {self.monitor.replace('_', ' ')}: {self.score:.6g} "
                          f"({counted})", *rows, f"page: {self.page}"])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingError("a search needs Optuna, which is not installed",
                           mend='python -m pip install "chainrule[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def read_search(path: Path) -> Search:
    """The configuration of a search: that of a run, with a section [search].

    Raises:
        DeclarationError: no such section, an unknown name in it, or a range that is none.
    """
    config = read_config(path)
    stored = tomllib.loads(path.read_text(encoding="utf-8")).get("search", {})
    space = stored.get("space", {})
    if not space:
        raise DeclarationError(f"{path.name} names nothing to search",
                               expected='[search.space] with "optimizer.lr" = {low = 1e-4, '
                               "high = 1e-1, log = true}")
    for name in stored:
        if name not in ("trials", "monitor", "space"):
            raise unknown_name(f"key of [search] in {path.name}", name,
                               ("trials", "monitor", "space"))
    for name, values in space.items():
        place, _, key = name.partition(".")
        if place not in _PLACES or not key:
            raise DeclarationError(f"{name!r} is nothing that a search can change",
                                   expected=", ".join(f"{p}.…" for p in _PLACES))
        _check_range(name, values)
    usual = "validation_loss" if config.data.validation_share else "test_loss"
    return Search(config, int(stored.get("trials", 20)), stored.get("monitor", usual), space)


def _check_range(name: str, values: Any) -> None:
    if isinstance(values, list) and values:
        return
    if isinstance(values, Mapping) and set(values) <= {"low", "high", "log", "step"}:
        low, high = values.get("low"), values.get("high")
        if isinstance(low, int | float) and isinstance(high, int | float) and low < high and not (
                values.get("log") and low <= 0):
            return
    raise DeclarationError(f"{name!r} has no range", got=repr(values),
                           expected="a list, or {low = …, high = …} with low < high")


def _suggest(trial: Any, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    rest = {k: v for k, v in values.items() if k in ("log", "step")}
    whole = isinstance(values["low"], int) and isinstance(values["high"], int)
    make = trial.suggest_int if whole else trial.suggest_float
    return make(name, values["low"], values["high"], **rest)


def _changed(config: RunConfig, chosen: Mapping[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """The run of a trial, and the arguments of its network."""
    arguments: dict[str, Any] = {}
    optimizer, plan = dict(config.optimizer), {}
    for name, value in chosen.items():
        place, _, key = name.partition(".")
        if place == "model":
            arguments[key] = value
        elif place == "optimizer":
            optimizer = _set(optimizer, key, value)
        elif key in Plan.__dataclass_fields__:
            plan[key] = value
        else:
            raise unknown_name(f"key of [{place}]", key, Plan.__dataclass_fields__)
    return replace(config, optimizer=optimizer, plan=replace(config.plan, **plan)), arguments


def _set(table: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``lr`` inside a schedule is meant where ``lr`` is one."""
    old = table.get(key)
    if isinstance(old, dict) and not isinstance(value, dict):
        return {**table, key: _set(old, "lr", value)}
    return {**table, key: value}


def _model(path: str, arguments: Mapping[str, Any]) -> ModelFile:
    """The model file, its network made with arguments of the trial."""
    if not arguments:
        return load_model(path)
    names = run_file(Path(path))
    make = names.get("network")
    known = list(inspect.signature(make).parameters) if callable(make) else []
    for name in arguments:
        if name not in known:
            raise unknown_name(f"argument of network() in {Path(path).name}", name, known)
    assert callable(make)
    return ModelFile(Path(path), as_program(make(**arguments)), names.get("data"))


# -- trials ---------------------------------------------------------------------------------------
def _study(folder: Path, search: Search) -> Any:
    optuna = _optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    seed = search.config.plan.seed
    return optuna.create_study(
        study_name="search", storage=storage, load_if_exists=True,
        direction="minimize" if smaller_is_better(search.monitor) else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2))


def _finished(study: Any) -> int:
    return sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))


def work(search: Search, folder: Path, first: int) -> None:
    """Do trials until as many as wanted are finished or under way: what each process runs.

    Args:
        first: how many trials there were before the search was started or gone on with. Of those
            since then the unfinished run in another process; of those before, they were killed.
    """
    optuna = _optuna()
    study = _study(folder, search)

    def enough() -> bool:
        trials = study.get_trials(deepcopy=False)
        return sum(t.state.is_finished() or t.number >= first for t in trials) >= search.trials

    def objective(trial: Any) -> float:
        chosen = {n: _suggest(trial, n, v) for n, v in search.space.items()}
        return _trial(search, chosen, trial)

    if not enough():
        number = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=search.config.plan.seed + number,
                                                   constant_liar=True)
        study.optimize(objective, callbacks=[lambda s, _: s.stop() if enough() else None])


def _trial(search: Search, chosen: Mapping[str, Any], trial: Any) -> float:
    """One run; the best value of the monitor over its epochs."""
    optuna = _optuna()
    config, arguments = _changed(search.config, chosen)
    file = _model(config.model, arguments)
    data = config.data
    parts = load_data(file, data.source, test_share=data.test_share,
                      validation_share=data.validation_share, seed=config.plan.seed,
                      columns=data.columns, standardise=data.standardise)
    session = prepare(file.program, parts, config.plan, config.make_optimizer(),
                      dtype=config.dtype, threads=config.threads or 1,
                      evaluation=file.evaluation, data=data)

    def after_epoch() -> None:
        row = session.history[-1]
        if search.monitor not in row:
            raise DataError(f"the monitor {search.monitor!r} is not measured",
                            expected=", ".join(row))
        trial.report(row[search.monitor], len(session.history))
        if trial.should_prune():
            raise optuna.TrialPruned

    ended = run(session, None, after_epoch)
    if ended.reason == "not finite":
        raise optuna.TrialPruned
    if ended.reason == "interrupted":
        raise KeyboardInterrupt
    values = [row[search.monitor] for row in session.history]
    return min(values) if smaller_is_better(search.monitor) else max(values)


def search(path: Path, folder: Path, processes: int = 1, trials: int | None = None,
           ranks: int | None = None) -> SearchResult:
    """Search, or go on with a search, and write the report.

    Args:
        path: the configuration.
        folder: of the journal and the report; one that holds a journal is gone on with.
        ranks: run trials on so many MPI ranks instead of processes of this machine.

    Raises:
        DeclarationError: the configuration does not say what to search.
        MissingError: Optuna is not installed.
    """
    wanted = read_search(path)
    if trials is not None:
        wanted = replace(wanted, trials=trials)
    if processes < 1 or wanted.trials < 1:
        raise DeclarationError("a search has at least one process and one trial",
                               got=f"{processes} and {wanted.trials}")
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(folder, wanted)
    if ranks is not None:
        from codegen.mpi.search import search_on_ranks

        search_on_ranks(path, folder, ranks, wanted.trials)
    else:
        first = len(study.get_trials(deepcopy=False))
        if processes == 1:
            work(wanted, folder, first)
        else:
            _in_processes(path, folder, processes, wanted.trials, first)
    return report(study, wanted, folder)


def _in_processes(path: Path, folder: Path, count: int, trials: int, first: int) -> None:
    """New processes, not forks: compiled kernels and their threads do not outlive a fork."""
    command = [sys.executable, "-m", "codegen.search", str(path), str(folder), str(trials),
               str(first)]
    running = [subprocess.Popen(command) for _ in range(count)]
    try:
        codes = [process.wait() for process in running]
    except KeyboardInterrupt:
        for process in running:
            process.terminate()
        raise
    if any(codes):
        raise DataError(f"{sum(map(bool, codes))} of {count} processes of the search failed",
                        mend="run it with --processes 1 to see why")


# -- the report ----------------------------------------------------------------------------------
def report(study: Any, search: Search, folder: Path) -> SearchResult:
    """``search.html`` and ``search.json``: every trial, the path of the best, and each setting.

    Raises:
        DataError: no trial was finished.
    """
    done = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    whole = [t for t in done if t.state.name == "COMPLETE"]
    if not whole:
        raise DataError("no trial of the search came to its end", got=f"{len(done)} were cut off",
                        mend="more trials, or a narrower space")
    best = study.best_trial
    counts = {"complete": len(whole), "cut off": len(done) - len(whole)}
    rows = [{"number": t.number, "state": t.state.name.lower(), "value": t.value, **t.params}
            for t in done]
    write_atomically(folder / "search.json", json.dumps(
        {"monitor": search.monitor, "best": best.params, "value": best.value, "trials": rows},
        indent=1).encode())
    page = folder / "search.html"
    write_atomically(page, _page(search, whole, rows, best).encode())
    return SearchResult(dict(best.params), float(best.value), counts, search.monitor, str(page))


def _page(search: Search, whole: list, rows: list[dict[str, Any]], best: Any) -> str:
    columns = list(dict.fromkeys(n for row in rows for n in row))
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    cells = "".join("<tr>" + "".join(f"<td>{_cell(row.get(c))}</td>" for c in columns) + "</tr>"
                    for row in sorted(rows, key=lambda r: (r["value"] is None, r["number"])))
    try:
        picture = _picture(search, whole)
        picture = picture[picture.index("<svg"):]
    except MissingError:
        picture = ""
    chosen = html.escape(", ".join(f"{n} = {v}" for n, v in best.params.items()))
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>search</title>'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            'style-src \'unsafe-inline\'"><style>body{font:16px/1.5 system-ui;max-width:60rem;'
            'margin:2rem auto}td,th{padding:.1rem .7rem;text-align:right}svg{max-width:100%}'
            f"</style></head><body><h1>{html.escape(search.monitor)}</h1><p>best: "
            f"{best.value:.6g} with {chosen}</p>{picture}<table><tr>{head}</tr>{cells}</table>"
            "</body></html>\n")


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else html.escape(str(value))


def _picture(search: Search, whole: list) -> str:
    """The best value so far, and the value over each setting."""
    names = list(search.space)
    across = min(3, len(names) + 1)
    figure, context = new_figure(4 * across, 3 * math.ceil((len(names) + 1) / across))
    better = min if smaller_is_better(search.monitor) else max
    with context:
        axes = figure.subplots(math.ceil((len(names) + 1) / across), across,
                               squeeze=False).ravel()
        values = [t.value for t in whole]
        best = [better(values[:n + 1]) for n in range(len(values))]
        axes[0].plot(values, ".", color="#999999")
        axes[0].step(range(len(best)), best, color="#1f5fa8", where="post")
        axes[0].set_xlabel("trial that came to its end")
        axes[0].set_ylabel(search.monitor.replace("_", " "))
        for axis, name in zip(axes[1:], names, strict=False):
            given = [t.params.get(name) for t in whole]
            words = any(isinstance(g, str) for g in given)
            axis.plot([str(g) for g in given] if words else given, values, ".", color="#1f5fa8")
            axis.set_xlabel(name)
            span = search.space[name]
            if isinstance(span, Mapping) and span.get("log"):
                axis.set_xscale("log")
        for axis in axes[len(names) + 1:]:
            axis.set_axis_off()
        return as_svg(figure)


if __name__ == "__main__":  # one of several processes
    work(replace(read_search(Path(sys.argv[1])), trials=int(sys.argv[3])), Path(sys.argv[2]),
         int(sys.argv[4]))
