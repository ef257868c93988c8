"""Storage of intermediates in 16 bits, for a GPU: what a program and a module need beside.

Everything is computed, and sums are accumulated, in single precision; parameters, their gradients
and moments are single precision, too. Intermediates of two dims and more are rounded when they are
stored (`codegen.memory`), adjoints among them times a scale (`derive.loss_scale`), which is two
states of the program: checkpoints hold them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codegen.optimizer import BLOCKS
from codegen.pipeline import Compiled
from codegen.print_cuda import LIBRARY
from codegen.scalars import ScalarPrinter
from derive.errors import DeclarationError
from derive.loss_scale import BAD, GOOD, SCALE, SMALLEST, loss_scale
from derive.program import Program

STORAGES = ("float16", "bfloat16")


def with_scale(program: Program, storage: str) -> Program:
    """A program with the scale's states, where there is something to scale.

    Raises:
        DeclarationError: a tensor of the program has the name of one of them.
    """
    if not program.gradients:
        return program
    states = {t.name: t for t in loss_scale(storage).role("state")}
    for name in states:
        if name in program.tensors:
            raise DeclarationError(f"the name {name!r} is taken by storage in 16 bits",
                                   mend="another name, or dtype=\"float32\"",
                                   where=program.tensors[name].where)
    return replace(program, tensors={**program.tensors, **states})


def rescaling_text(compiled: Compiled) -> tuple[list[str], dict[str, Any]]:
    """Kernels that count what is not finite in a gradient, and that give the scale its next value;
    and functions used."""
    assert compiled.storage is not None
    rule = loss_scale(compiled.storage)
    printer = ScalarPrinter({}, library=LIBRARY)
    printer.bare = {SCALE, GOOD, BAD}
    places = {n: int(compiled.states.slots[n].offset) for n in (SCALE, GOOD)}
    nexts = {old: printer.value(rule[new].body) for old, new in rule.updates.items()}
    stores = [f"    s[{places[n]}] = n[{places[n]}] = {text}" for n, text in nexts.items()]
    return ["\n".join([
        "# where the scale of adjoints that are stored in 16 bits is, among the states",
        f"SCALE = {places[SCALE]}"]), "\n".join([
            "@launch", "def count_bad(d, sums):",
            "    length, total = d.shape[0], 0.0",
            "    first = length*cuda.blockIdx.x//cuda.gridDim.x",
            "    last = length*(cuda.blockIdx.x + 1)//cuda.gridDim.x",
            "    for i in range(first + cuda.threadIdx.x, last, cuda.blockDim.x):",
            "        if not (d[i] - d[i] == F(0)):",
            "            total += 1.0",
            "    total = block_sum_double(total)",
            "    if cuda.threadIdx.x == 0:",
            "        sums[cuda.blockIdx.x] = total"]), "\n".join([
                *(f"# {eq}" for eq in rule.equations), "@launch",
                "def rescale(s, n, sums, number, flag):",
                "    if flag[0] != 0:",
                "        return",
                f"    {BAD} = F(0)", f"    for block in range({BLOCKS}):",
                f"        {BAD} += F(sums[block])",
                f"    {SCALE}, {GOOD} = s[{places[SCALE]}], s[{places[GOOD]}]", *stores,
                f"    flag[1] = 1 if {BAD} > F(0) else 0",
                "    flag[2] += flag[1]",
                f"    if flag[1] != 0 and {SCALE} < F({SMALLEST}):  # it is not the range",
                "        flag[0] = number + 1"])], printer.functions
