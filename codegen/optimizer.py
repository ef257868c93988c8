"""The optimizer's program → one fused loop over the flat parameters.

What does not depend on the element (``1 - beta1**t``) is computed once, in double precision, and
handed to the loop in the module's own.
"""

from __future__ import annotations

from typing import Any

from sympy import Expr, Symbol

from codegen.print_cpu import RESERVED
from codegen.scalars import ScalarPrinter
from derive.nodes import Access
from derive.optimizers import Optimizer


class _Hoist:
    """Replaces maximal subexpressions that no element enters by names."""

    def __init__(self) -> None:
        self.known: dict[Expr, Symbol] = {}

    def __call__(self, expr: Expr) -> Expr:
        if _constant(expr):
            if expr.is_number:
                return expr
            return self.known.setdefault(expr, Symbol(f"_c{len(self.known) + 1}", real=True))
        if not expr.args or isinstance(expr, Access):
            return expr
        if expr.is_Add or expr.is_Mul:
            still = [a for a in expr.args if _constant(a)]
            rest = [a for a in expr.args if not _constant(a)]
            if len(still) > 1:
                return expr.func(self(expr.func(*still)), *map(self, rest))
        return expr.func(*(self(a) if isinstance(a, Expr) else a for a in expr.args))


def _constant(expr: Expr) -> bool:
    return all(not a.where for a in expr.atoms(Access)) and not (
        expr.free_symbols - {s for a in expr.atoms(Access) for s in a.free_symbols}
    )


def update_text(optimizer: Optimizer, trained: int, parallel: bool
                ) -> tuple[list[str], dict[str, Any]]:
    """``update_part`` (the loop over lo .. hi), ``update`` (all of it), and functions used."""
    program = optimizer.program
    names: dict[object, str] = {"p": "p", "g": "d"}
    for moment in optimizer.moments:
        names[moment] = f"moment_{moment}"
    for setting in (*optimizer.settings, "t"):
        names[setting] = setting if setting not in RESERVED and setting != "x" else f"{setting}_"
    hoist = _Hoist()
    element, constants = ScalarPrinter(names), ScalarPrinter(names, cast="float")
    constants.bare = {*optimizer.settings, "t"}
    body, stores = [], []
    for group in program.groups:
        for eq in group.equations:
            names[eq.indices[0]] = "i"
            value = hoist(eq.body)
            local = Symbol(f"{eq.name}", real=True)
            body.append((local, value))
    replaced = {}
    for eq in program.equations:
        replaced[eq.target] = Symbol(eq.name, real=True)
    back = {new: old for old, new in program.updates.items()}
    lines = []
    for local, value in body:
        lines.append(f"        {local} = {element.value(value.xreplace(replaced))}")
        if local.name in back:
            stores.append(f"        {names[back[local.name]]}[i] = {local}")
    head = [f"    {names[s]} = settings[{n}]" for n, s in enumerate(optimizer.settings)]
    head += ["    t = float(step)"] if names["t"] == "t" else ["    t_ = float(step)"]
    head += [f"    {symbol} = F({constants.value(expr)})" for expr, symbol in hoist.known.items()]
    arguments = ["step", "settings", "p", "d", *(names[m] for m in optimizer.moments)]
    comments = [f"# {eq}" for eq in program.equations]
    flat = ["p", "d", *(names[m] for m in optimizer.moments)]
    # parts of the arrays instead of a loop from lo to hi: only so does LLVM make vectors of it
    slices = [f"    {name} = {name}[lo:hi]" for name in flat]
    part = "\n".join([*comments, "@kernel", f"def update_part(lo, hi, {', '.join(arguments)}):",
                      *head, *slices, "    for i in range(p.shape[0]):", *lines, *stores])
    joined = ", ".join(arguments)
    texts = [part]
    texts.append("\n".join(["@kernel", f"def update(parts, {joined}):",
                            f"    update_part(0, {trained}, {joined})"]))
    if parallel:
        texts.append("\n".join([
            "@njit(parallel=True, **OPTIONS)", f"def update_split(parts, {joined}):",
            "    for part in prange(parts):",
            f"        update_part({trained}*part//parts, {trained}*(part + 1)//parts, {joined})"]))
    return texts, {**element.functions, **constants.functions}
