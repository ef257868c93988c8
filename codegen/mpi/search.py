"""A search whose trials run on MPI ranks: rank 0 hands them out (`mpi4py.futures`), any other runs
one after the other. The journal lies in a folder that all ranks see, so a trial that is worse than
the others is cut off wherever it runs, and a search goes on with another number of ranks.

    mpiexec -n 9 python -m mpi4py.futures -m codegen.mpi.search search.toml folder 40
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from codegen.mpi.launch import mpiexec
from codegen.search import Search, _finished, _optuna, _study, _suggest, _trial, read_search
from derive.errors import DataError, DeclarationError


def search_on_ranks(path: Path, folder: Path, count: int, trials: int) -> None:
    """Start ``count`` ranks that run trials, and one that hands them out; wait for all.

    Raises:
        DeclarationError: fewer than one rank.
        MissingError: there is no MPI here.
        DataError: a trial failed; what it said has been printed.
    """
    if count < 1:
        raise DeclarationError("a search has at least one rank", got=count)
    command = [*mpiexec(), "-n", str(count + 1), sys.executable, "-m", "mpi4py.futures", "-m",
               "codegen.mpi.search", str(path), str(folder), str(trials)]
    if subprocess.run(command, check=False).returncode:
        raise DataError("the search over MPI ended with an error", mend="what was tried is kept; "
                        "run it without --ranks to see why")


def hand_out(pool: Any, search: Search, path: Path, folder: Path) -> None:
    """Keep every rank at work until as many trials as wanted are finished.

    Raises:
        DataError: a trial failed, with its settings.
    """
    optuna = _optuna()
    study = _study(folder, search)
    known = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=search.config.plan.seed + known,
                                               constant_liar=True)
    states = {"complete": optuna.trial.TrialState.COMPLETE,
              "pruned": optuna.trial.TrialState.PRUNED}
    flying: dict[Future, Any] = {}
    while True:
        while len(flying) < min(pool.num_workers, search.trials - _finished(study)):
            trial = study.ask()
            chosen = {n: _suggest(trial, n, v) for n, v in search.space.items()}
            flying[pool.submit(run_trial, str(path), str(folder), trial._trial_id, chosen)] = trial
        if not flying:
            return
        for future in wait(flying, return_when=FIRST_COMPLETED).done:
            trial = flying.pop(future)
            how, value, text = future.result()
            if how == "failed":
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise DataError(f"trial {trial.number} failed: {text}", got=trial.params)
            study.tell(trial, value if how == "complete" else None, state=states[how])


def run_trial(path: str, folder: str, trial_id: int, chosen: dict[str, Any]
              ) -> tuple[str, float, str]:
    """One trial, on the rank that got it: how it ended, its value, what went wrong."""
    optuna = _optuna()
    search = read_search(Path(path))
    trial = optuna.trial.Trial(_study(Path(folder), search), trial_id)
    try:
        return "complete", _trial(search, chosen, trial), ""
    except optuna.TrialPruned:
        return "pruned", 0.0, ""
    except Exception as error:  # what one rank raises is said by rank 0
        return "failed", 0.0, f"{type(error).__name__}: {error}"


def main() -> int:
    """Rank 0."""
    from mpi4py.futures import MPIPoolExecutor

    path, folder, trials = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    search = replace(read_search(path), trials=trials)
    with MPIPoolExecutor() as pool:
        try:
            hand_out(pool, search, path, folder)
        except DataError as error:
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
