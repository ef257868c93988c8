"""What can be known of the examples' kernels without a GPU: each through the compiler library and
ptxas, for each architecture; printed network by network, or written as a page."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import codegen
import derive as dr
from benchmarks.gpu_examples import module_of, programs
from benchmarks.gpu_known import Known, fingerprint
from codegen.cuda_ptx import ARCHITECTURES, Assembled, kernels_of

THREADS = 256  # of a block, in emitted modules
SHARED = 48 << 10  # bytes that a block may have without asking for more
HEAD = ("| kernel | registers | occupancy, % | shared bytes | spilled | stack | vector loads |\n"
        "|---|---|---|---|---|---|---|")
SUMMARY = ("| network | kernels | most registers | least occupancy, % | most shared bytes | "
           "spilled | stack |\n|---|---|---|---|---|---|---|")


@dataclass(frozen=True)
class Network:
    """The kernels of a network's module: by name, what ptxas says for each architecture, and
    which of them are like none before."""

    label: str
    kernels: dict[str, list[Assembled]]
    new: frozenset[str]

    @property
    def everything(self) -> list[Assembled]:
        return [one for found in self.kernels.values() for one in found]

    @property
    def wrong(self) -> list[Assembled]:
        """What spills registers, or takes more shared memory than a block has."""
        return [one for one in self.everything if one.spilled or one.shared > SHARED]

    def summary(self) -> str:
        found = self.everything
        return (f"| {self.label} | {len(self.kernels)} | {max(o.registers for o in found)} | "
                f"{min(o.occupancy(THREADS) for o in found)*100:.0f} | "
                f"{max(o.shared for o in found)} | {sum(o.spilled for o in found)} | "
                f"{max(o.stack for o in found)} |")

    def page(self) -> list[str]:
        """A row for each kernel that is like none before, and the names of the others."""
        lines = [f"## examples/{self.label}", "", HEAD,
                 *(row(n, found) for n, found in self.kernels.items() if n in self.new), ""]
        others = [n for n in self.kernels if n not in self.new]
        if others:
            lines += [f"The same as one above: {', '.join(others)}.", ""]
        return lines


def row(name: str, found: list[Assembled]) -> str:
    """A kernel; architectures from sm_75 to sm_90 behind each other."""
    registers = " ".join(str(one.registers) for one in found)
    shares = " ".join(f"{100*one.occupancy(THREADS):.0f}" for one in found)
    loads = sorted({one.vector_loads for one in found})
    return (f"| {name} | {registers} | {shares} | {max(one.shared for one in found)} | "
            f"{sum(one.spilled for one in found)} | {max(one.stack for one in found)} | "
            f"{' to '.join(map(str, loads[:1] + loads[1:][-1:]))} |")


def networks(examples: tuple[str, ...], known: Known) -> Iterator[Network]:
    """The networks of the examples, each once its kernels are assembled (or `known`)."""
    before: set[str] = set()
    for name in examples:
        for label, program in programs(name):
            with tempfile.TemporaryDirectory() as folder:
                path = codegen.emit(program, Path(folder) / "kernels.py", target="cuda",
                                    optimizer=dr.adam())
                made = module_of(path, "kernels")
                keys = {kernel: fingerprint(made, kernel) for kernel in kernels_of(made)}
                found = {kernel: known.assembled(made, kernel) for kernel in keys}
            firsts = {key: kernel for kernel, key in reversed(keys.items())}
            new = frozenset(kernel for key, kernel in firsts.items() if key not in before)
            before |= {*keys.values()}
            yield Network(label, found, new)


def told(examples: tuple[str, ...], known: Known, table: Path | None = None) -> int:
    """A line for each network, and all of it as a page in ``table``; 1 where a kernel spills or
    takes too much shared memory."""
    done: list[Network] = []
    start = time.perf_counter()
    for network in networks(examples, known):
        done.append(network)
        print(f"{network.summary()} {len(network.wrong)} wrong; {known.compiled} compiled, "
              f"{time.perf_counter() - start:.0f} s", flush=True)
        for one in network.wrong:
            print(f"    {one}", flush=True)
        if table is not None:
            table.write_text("\n".join(page(done)), encoding="utf-8")
    return 1 if any(network.wrong for network in done) else 0


def page(done: list[Network]) -> list[str]:
    kernels = sum(len(n.kernels) for n in done)
    different = sum(len(n.new) for n in done)
    return [
        "# Kernels as ptxas sees them", "",
        "Made by `python benchmarks/gpu.py --table docs/cuda_kernels.md`, without a GPU: single "
        f"precision, Adam, blocks of {THREADS} threads. {kernels} kernels of {len(done)} networks, "
        f"{different} of them different; each was compiled and assembled for "
        f"{', '.join(ARCHITECTURES)}, and {sum(len(n.wrong) for n in done) or 'none'} of these "
        f"{kernels*len(ARCHITECTURES)} spills registers or takes more than {SHARED} bytes of "
        "shared memory. Registers and occupancy stand in the order of the architectures; spilled "
        "bytes are added up over them, stack bytes are the most: those of sine and cosine, whose "
        "reduction of large arguments keeps a table. Vector loads are counted in the PTX.", "",
        SUMMARY, *(n.summary() for n in done), "",
        *(line for n in done for line in n.page())]
