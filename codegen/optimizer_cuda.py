"""The optimizer's program → kernels over the flat parameters, for a GPU.

The same rule as on the CPU (`codegen.optimizer`), with one launch over all elements. A norm is two
launches before it: `BLOCKS` blocks each sum a fixed share in double precision in a fixed order,
then one thread adds the blocks up in order, so that the bits are the same in every run.
"""

from __future__ import annotations

from typing import Any

from codegen.memory import Layout
from codegen.optimizer import BLOCKS, RulePrinter, segments
from codegen.print_cuda import LIBRARY
from derive.optimizers import Optimizer

FACTOR = "*factors[piece*{count} + {{}}]"


def update_texts(optimizer: Optimizer, layout: Layout, trained: int, skips: bool = False
                 ) -> tuple[list[str], dict[str, Any]]:
    """Tables, kernels, and the host's function ``launch_update``; and functions used.

    ``skips``: steps may be left out, which the device alone knows: ``flag[1]`` says so of this
    one, ``flag[2]`` counts those since the host last asked, which are no steps of the rule. What a
    rule does with matrices is in `codegen.matrix_cuda`.
    """
    rule = RulePrinter(optimizer, library=LIBRARY)
    pieces, factors = segments(optimizer, layout, trained, any(n.each for n in rule.norms))
    if not pieces:  # all are matrices; nothing is empty on a device
        pieces, factors = [(0, 0)], [[1.0]*len(optimizer.settings)]
    factor = FACTOR.format(count=len(optimizer.settings))
    texts = ["\n".join([
        f"# parts of the flat arrays, and factors of {', '.join(optimizer.settings)} in each",
        f"SEGMENTS = np.array({[x for p in pieces for x in p]}, np.int64)",
        f"FACTORS = np.array({[x for f in factors for x in f]}, np.float64)",
        f"NORMS = {tuple(n.equation.name for n in rule.norms)}"])]
    for number in range(len(rule.norms)):
        texts += _norm(rule, number, factor, skips)
    head, lines = rule.element(list(optimizer.program.updates.values()), rule.elements, factor)
    flat = ["p", "d", *rule.moments]
    known = [n.equation.name for n in rule.norms]
    arguments = ["step", "settings", "segments", "factors", *(f"{n}_all" for n in known), *flat,
                 "flag"]
    texts.append("\n".join([
        *rule.comments(), "@launch", f"def update_elements({', '.join(arguments)}):",
        "    if flag[0] != 0 or flag[1] != 0:  # a loss, or the gradient, is not finite" if skips
        else "    if flag[0] != 0:  # a loss was not finite",
        "        return",
        *(["    step -= flag[2]"] if skips else []),
        "    for piece in range(segments.shape[0]//2):",
        *(f"        {n} = {n}_all[piece]" for n in known),
        *("    " + line for line in head),
        "        for i in range(segments[2*piece] + cuda.grid(1), segments[2*piece + 1],",
        "                       cuda.gridsize(1)):",
        *("    " + line for line in lines), *("    " + line for line in rule.stores())]))
    texts.append(_host(rule, known, flat, skips))
    return texts, rule.functions


def _norm(rule: RulePrinter, number: int, factor: str, skips: bool) -> list[str]:
    norm = rule.norms[number]
    name = norm.equation.name
    before = [n.equation.name for n in rule.norms[:number]]
    flat = ["p", "d", *rule.moments]
    head, lines = rule.element(["_summand"], rule.summands(norm), factor)
    arguments = ["step", "settings", "segments", "factors", *(f"{n}_all" for n in before), *flat,
                 "sums", *(["flag"] if skips else [])]
    counted = ["    step -= flag[2]"] if skips else []
    sums = ["@launch", f"def sums_{name}({', '.join(arguments)}):", *counted,
            "    count = segments.shape[0]//2",
            "    for piece in range(count):",
            *(f"        {n} = {n}_all[piece]" for n in before),
            *("    " + line for line in head),
            "        lo, hi = segments[2*piece], segments[2*piece + 1]",
            "        first = lo + (hi - lo)*cuda.blockIdx.x//cuda.gridDim.x",
            "        last = lo + (hi - lo)*(cuda.blockIdx.x + 1)//cuda.gridDim.x",
            "        total = 0.0",
            "        for i in range(first + cuda.threadIdx.x, last, cuda.blockDim.x):",
            *("    " + line for line in lines),
            "            total += float(_summand)",
            "        total = block_sum_double(total)",
            "        if cuda.threadIdx.x == 0:",
            "            sums[cuda.blockIdx.x*count + piece] = total"]
    result = rule.double.value(norm.result)
    flag = ", flag" if skips else ""
    whole = ["@launch", f"def norm_{name}(step, settings, sums, {name}_all{flag}):", *counted,
             "    count, total = " + f"{name}_all.shape[0], 0.0",
             *rule.head(),
             "    for piece in range(count):"]
    add = [f"for block in range({BLOCKS}):", "    total += sums[block*count + piece]"]
    if norm.each:
        whole += ["        total = 0.0", *("        " + line for line in add),
                  f"        {name}_all[piece] = {result}"]
    else:
        whole += [*("        " + line for line in add), "    for piece in range(count):",
                  f"        {name}_all[piece] = {result}"]
    return ["\n".join([f"# {norm.equation}", *sums]), "\n".join(whole)]


def _host(rule: RulePrinter, known: list[str], flat: list[str], skips: bool) -> str:
    """The launches of one update, in order."""
    tables = ["step", "settings", "segments", "factors"]
    lines = []
    for number, name in enumerate(known):
        before = [f"norms[{k}]" for k in range(number)]
        flag = ["flag"] if skips else []
        last = ", ".join(["step", "settings", "sums", f"norms[{number}]", *flag])
        lines += [f"    sums_{name}[{BLOCKS}, THREADS, stream](",
                  f"        {', '.join([*tables, *before, *flat, 'sums', *flag])})",
                  f"    norm_{name}[1, 1, stream]({last})"]
    every = [f"norms[{k}]" for k in range(len(known))]
    lines.append(f"    update_elements[(*spread(P_TRAINED), stream)]("
                 f"{', '.join([*tables, *every, *flat, 'flag'])})")
    arguments = ["stream", *tables, "sums", "norms", *flat, "flag"]
    return "\n".join([f"def launch_update({', '.join(arguments)}):", *lines])
