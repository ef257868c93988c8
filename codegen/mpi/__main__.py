"""One rank: ``mpiexec -n N python -m mpi4py -m codegen.mpi train net.py …`` (or ``resume RUN``).

The options are those of ``chainrule``. Rank 0 prints and writes. Before the first step an error of
one rank is an error of all, said once; after it, a rank that fails ends the job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from codegen.cli import fail, parser, show
from codegen.mpi.team import NOTES, RANKS, Team, TogetherError, note
from codegen.verbs import INTERRUPTED, MISSING, USAGE
from derive.errors import ChainruleError, DeclarationError, MissingError

# what a launcher tells its ranks: MPICH and Intel MPI, PMIx, Open MPI, Slurm
_NUMBERS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb on this rank; returns the exit code."""
    args = parser().parse_args(argv)
    own = next((os.environ[n] for n in _NUMBERS if n in os.environ), "0")
    try:
        if args.verb not in ("train", "resume"):
            raise DeclarationError(f"{args.verb!r} does not run over MPI",
                                   expected="train or resume")
        team = Team()
        _as_started(team)
    except ChainruleError as error:
        if own == "0":
            fail(args.json, error)
        return MISSING if isinstance(error, MissingError) else USAGE
    note(f"pid-{team.rank}", str(os.getpid()))
    stderr = sys.stderr
    if not team.first:
        sys.stdout = sys.stderr = open(os.devnull, "w")
    args.team, args.ranks = team, None
    try:
        code = _run(team, args, stderr)
    finally:
        team.pulse.stop()
    note(f"done-{team.rank}", str(code))
    team.gather(code)  # mpiexec ends the others when one ends with an error
    return code


def _run(team: Team, args: object, stderr: object) -> int:
    try:
        try:
            code, data, text = args.action(args)  # type: ignore[attr-defined]
        except TogetherError:
            raise
        except (ChainruleError, OSError, MemoryError) as error:
            if team.steps_began:
                raise
            team.meet(error=error)
            raise AssertionError("an error that was brought is raised") from error
    except TogetherError as error:
        if team.first:
            fail(args.json, error)  # type: ignore[attr-defined]
        return MISSING if error.missing else USAGE
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        text = str(error) if isinstance(error, ChainruleError) else (
            f"rank {team.rank}: {type(error).__name__}: {error}")
        note(f"fault-{team.rank}", text)
        if NOTES not in os.environ:
            print(f"error: {text}", file=stderr, flush=True)  # type: ignore[call-overload]
        team.abort(INTERRUPTED if interrupted else 1)
        return 1
    if team.first:
        show(args, data, text)  # type: ignore[arg-type]
    return code


def _as_started(team: Team) -> None:
    """Whether the MPI of mpiexec is the one that mpi4py has loaded: if not, every rank believes
    that it is the only one. Without our launcher, what mpiexec or srun left to its ranks says so.
    """
    said = [int(os.environ[n]) for n in (RANKS, *_COUNTS) if os.environ.get(n, "").isdecimal()]
    wanted = said[0] if RANKS in os.environ and said else max(said, default=0)
    if wanted > 1 and team.size != wanted and (team.size == 1 or RANKS in os.environ):
        version = team.MPI.Get_library_version().split("\n")[0].strip()
        raise MissingError(
            f"mpiexec started {wanted} ranks, and mpi4py sees {team.size}: they are of different "
            "MPIs", expected="the mpiexec of the library that mpi4py loads", got=version,
            mend='python -m pip install "chainrule[mpi-local]", whose mpiexec stands beside '
            "this Python")


if __name__ == "__main__":
    sys.exit(main())
