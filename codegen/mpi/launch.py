"""Starts the ranks of a run, says which one failed, and goes on from the last checkpoint."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TextIO

from codegen.mpi.team import NOTES, RANKS, mpi
from derive.errors import DeclarationError, MissingError

_ABORT = re.compile(rb"Abort\(\d+\) on node.*\n?")


def launch(argv: Sequence[str], count: int, restarts: int = 0) -> int:
    """Run ``chainrule train`` or ``resume`` on several ranks of this machine; the exit code.

    Raises:
        MissingError: there is no MPI here.
        DeclarationError: fewer ranks than one, fewer restarts than none.
    """
    if count < 1 or restarts < 0:
        raise DeclarationError("a run has at least one rank, and restarts no fewer than 0 times",
                               got=f"{count} ranks, {restarts} restarts")
    mpi_command = [*mpiexec(), "-n", str(count), sys.executable, "-m", "mpi4py", "-m",
                   "codegen.mpi"]
    verb = _without(argv, "--ranks", "--max-restarts")
    while True:
        with tempfile.TemporaryDirectory(prefix="chainrule-ranks-") as name:
            code, cause, folder = _once([*mpi_command, *verb], count, Path(name))
        if not cause:
            return code
        print(f"error: {cause}", file=sys.stderr)
        if not restarts or not folder:
            if folder:
                print(f"  mend:     chainrule resume {folder} --ranks {count}", file=sys.stderr)
            return code or 1
        restarts -= 1
        print(f"going on from the last checkpoint in {folder} ({restarts} restarts left)",
              file=sys.stderr)
        verb = ["resume", folder, *(["--json"] if "--json" in argv else [])]


def mpiexec() -> list[str]:
    """The command that starts ranks: the one beside this Python, or the first one found.

    Raises:
        MissingError: there is none, or no mpi4py, or they belong to different MPIs.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    path = str(beside) if beside.exists() else shutil.which("mpiexec")
    if path is None:
        raise MissingError("there is no mpiexec here", expected="an MPI",
                           mend='python -m pip install "chainrule[mpi-local]"')
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    own = mpi(initialize=False).Get_library_version()
    found, loaded = _kind(said), _kind(own)
    if found != loaded and "?" not in (found, loaded):
        raise MissingError(f"mpiexec is that of {found}, mpi4py loads {loaded}: every rank would "
                           "believe that it is the only one", expected=f"the mpiexec of {loaded}",
                           got=path, mend="put it before the other one on PATH, or "
                           'python -m pip install "chainrule[mpi-local]"')
    return [path, "--oversubscribe"] if found == "Open MPI" else [path]


def _kind(version: str) -> str:
    """Whose ranks understand each other; ``?`` where the words say nothing known."""
    if "Open MPI" in version or "OpenRTE" in version:
        return "Open MPI"
    return "MPICH" if any(n in version for n in ("MPICH", "HYDRA", "Intel(R) MPI")) else "?"


def _without(argv: Sequence[str], *options: str) -> list[str]:
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept


def _once(command: list[str], count: int, notes: Path) -> tuple[int, str, str]:
    """One job: its exit code, what went wrong where a rank failed, and the run's folder."""
    environment = {**os.environ, NOTES: str(notes), RANKS: str(count)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    watch = _Watch(notes, count)
    said: list[bytes] = []
    assert process.stdout is not None and process.stderr is not None
    readers = [threading.Thread(target=_pass_on, args=(pipe, out, said)) for pipe, out in (
        (process.stdout, sys.stdout), (process.stderr, sys.stderr))]
    for reader in readers:
        reader.start()
    watch.start()
    asked: list[int] = []

    def end(number: int, _: object) -> None:
        asked.append(number)
        process.terminate()  # mpiexec ends the ranks

    here = threading.current_thread() is threading.main_thread()  # others may not ask for signals
    before = {n: signal.signal(n, end) for n in (signal.SIGTERM, signal.SIGHUP) if here}
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:  # the ranks save, and end by themselves
                watch.tell(signal.SIGINT)
    finally:
        watch.over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join(5)
    watch.join()
    if asked:
        raise SystemExit(128 + asked[0])
    text = b"".join(said)
    folder = notes / "folder"
    where = folder.read_text() if folder.exists() else ""
    done = {int(p.name[5:]) for p in notes.glob("done-*")}
    if len(done) == count:
        return max(int(p.read_text()) for p in notes.glob("done-*")), "", where
    faults = [p.read_text() for p in sorted(notes.glob("fault-*"))]
    if faults:
        return code or 1, faults[0], where
    if not watch.pids and not where:  # no rank got as far as MPI: what they said has been shown
        return code or 1, "" if code else "the ranks ended before they began", where
    own, what = _ended(watch, text, done)
    return own or code or 1, what, where


def _pass_on(pipe: IO[bytes], out: TextIO, said: list[bytes]) -> None:
    """What the ranks say goes through, line by line; what mpiexec says of them is kept."""
    quiet = False
    for line in pipe:
        said.append(line)
        quiet |= line.startswith(b"=====")
        if not quiet and not _ABORT.match(line) and line.strip():
            out.write(line.decode(errors="replace"))
            out.flush()


def _ended(watch: _Watch, text: bytes, done: set[int]) -> tuple[int, str]:
    """The exit code of the rank that ended the job, where it ended by itself, and what to say."""
    pid = re.search(rb"PID (\d+) RUNNING", text)
    rank = next((r for r, p in watch.pids.items() if pid and p == int(pid[1])), None)
    lost = {r: status for r, status in watch.ended.items() if r not in done}
    by_itself = next((r for r, status in lost.items() if status and os.WIFEXITED(status)), None)
    if rank is None:  # mpiexec is silent where a rank ends by itself; the others it kills
        rank = next(iter(lost), None) if by_itself is None else by_itself
    elif by_itself is not None and by_itself == next(
            r for r in lost if r in (rank, by_itself)):
        rank = by_itself  # mpiexec names one that it has killed itself
    killed = re.search(rb"\(signal (\d+)\)|KILLED BY SIGNAL: (\d+)", text)
    code = re.search(rb"EXIT CODE: (\d+)", text)
    who = "a rank" if rank is None else f"rank {rank}"
    if killed and (by_itself is None or rank != by_itself):
        number = int(killed[1] or killed[2])
        return 0, f"{who} was killed by signal {number} ({signal.Signals(number).name})"
    number = os.WEXITSTATUS(lost[by_itself] or 0) if by_itself is not None else (
        int(code[1]) if code else 0)
    return number, f"{who} ended without a word" + (f", exit code {number}" if number else "")


def _status(pid: int, file: int) -> int | None:
    """How a process that is no child of ours has ended; None where the kernel does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if words[0] == "Z":  # nobody has asked for it yet
            return int(words[49])
    except OSError:
        pass
    request = bytearray(struct.pack("Q56x", 1 << 3))  # struct pidfd_info, PIDFD_INFO_EXIT
    try:
        fcntl.ioctl(file, 0xC040FF0B, request)  # PIDFD_GET_INFO, of Linux 6.15 and later
    except OSError:
        return None
    return int(struct.unpack_from("i", request, 60)[0])


class _Watch(threading.Thread):
    """Which process of a job ends first: the others are ended by mpiexec a moment later."""

    def __init__(self, notes: Path, count: int) -> None:
        super().__init__(daemon=True)
        self.notes, self.count = notes, count
        self.pids: dict[int, int] = {}
        self.ended: dict[int, int | None] = {}  # by rank, how: as `os.waitpid` has it
        self.over = threading.Event()

    def run(self) -> None:
        poll, files = select.poll(), {}
        while not self.over.is_set():
            for path in self.notes.glob("pid-*"):
                rank = int(path.name[4:])
                if rank not in self.pids:
                    self.pids[rank] = int(path.read_text())
                    try:
                        file = os.pidfd_open(self.pids[rank])
                    except (OSError, AttributeError):
                        continue
                    files[file] = rank
                    poll.register(file, select.POLLIN)
            if not files:
                time.sleep(0.02)
                continue
            for file, _ in poll.poll(50):
                rank = files.pop(file)
                self.ended[rank] = _status(self.pids[rank], file)
                poll.unregister(file)
                os.close(file)
        for file in files:
            os.close(file)

    def tell(self, number: int) -> None:
        """Send a signal to all ranks."""
        for pid in self.pids.values():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
