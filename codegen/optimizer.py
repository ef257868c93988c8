"""The optimizer's program → one fused loop over the flat parameters.

What does not depend on the element (``1 - beta1**t``, a schedule) is computed once, in double
precision, and handed to the loop in the module's own. A norm is a loop of its own before it: each
of a fixed number of blocks is summed in double precision and the blocks are added up in order, so
that its bits do not depend on the number of threads. Where settings differ between parameters, or a
norm is one tensor's, the loops run over segments of the flat arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from sympy import Expr, Symbol

from codegen.hoist import Hoist
from codegen.matrix_update import matrices, matrix_texts
from codegen.memory import Layout
from codegen.print_statements import RESERVED
from codegen.scalars import ScalarPrinter
from derive.errors import DeclarationError, nearest
from derive.nodes import Access, Select, SumOver
from derive.optimizers import Optimizer
from derive.program import Equation

BLOCKS = 64


@dataclass
class _Norm:
    """A sum over elements, and what is made of it: one number, or one for each tensor."""

    equation: Equation
    summand: Expr
    result: Expr  # of the total, which is called `total`
    each: bool


@dataclass
class RulePrinter:
    """The equations of a rule, sorted into scalars, norms and elements, and their text."""

    optimizer: Optimizer
    functions: dict[str, Any] = field(default_factory=dict)
    library: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        program = self.optimizer.program
        self.names: dict[object, str] = {"p": "p", "g": "d", "_total": "total"}
        self.moments = [f"moment_{m}" for m in self.optimizer.moments]
        self.names |= dict(zip(self.optimizer.moments, self.moments, strict=True))
        for name in (*self.optimizer.settings, "t"):
            free = name not in RESERVED and name != "x"
            self.names[name] = name if free else f"{name}_"
        self.scalars: list[Equation] = []
        self.norms: list[_Norm] = []
        self.elements: dict[str, Expr] = {}
        short: dict[Expr, Expr] = {}  # what an element equation calls the norm of its tensor
        parameter = program.tensors["p"].indices[0]
        for eq in [e for group in program.groups for e in group.equations]:
            if eq.body.atoms(SumOver):
                norm = _norm(eq, parameter)
                self.norms.append(norm)
                if norm.each:
                    short |= {a: Access(eq.name) for other in program.equations
                              for a in other.body.atoms(Access) if a.name == eq.name}
            elif not eq.indices:
                self.scalars.append(eq)
            else:
                self.elements[eq.name] = eq.body.xreplace({eq.indices[0]: parameter})
        self.elements = {n: b.xreplace(short) for n, b in self.elements.items()}
        self.index = parameter
        self.locals = {Access(n, parameter): Symbol(n, real=True) for n in self.elements}
        self.double = ScalarPrinter(self.names, cast="float", library=self.library)
        self.double.bare = {*self.optimizer.settings, "t", "_total",
                            *(eq.name for eq in self.scalars),
                            *(norm.equation.name for norm in self.norms)}

    @property
    def arguments(self) -> list[str]:
        return ["step", "settings", *(n.equation.name for n in self.norms), "p", "d",
                *self.moments]

    def head(self, factor: str = "") -> list[str]:
        """Settings, the step number, and what follows from these alone; ``factor`` is the text
        of a factor of setting number {}."""
        lines = [f"    {self.names[s]} = settings[{n}]{factor.format(n)}"
                 for n, s in enumerate(self.optimizer.settings)]
        lines.append(f"    {self.names['t']} = float(step)")
        return lines + [f"    {eq.name} = {self.double.value(eq.body)}" for eq in self.scalars]

    def loop(self, name: str, wanted: Sequence[str], known: int, last: Sequence[str],
             bodies: dict[str, Expr], further: Sequence[str] = ()) -> list[str]:
        """A function over the elements lo .. hi: locals of the equations that ``wanted`` need,
        then the lines ``last``; ``further`` are arguments in front of the flat arrays."""
        head, lines = self.element(wanted, bodies)
        norms = [n.equation.name for n in self.norms[:known]]
        flat = ["p", "d", *self.moments]
        # parts of the arrays instead of a loop from lo to hi: so LLVM makes vectors of it
        arguments = ["lo", "hi", "step", "settings", *norms, *further, *flat]
        return ["@kernel", f"def {name}({', '.join(arguments)}):",
                *head, *(f"    {n} = {n}[lo:hi]" for n in flat),
                *(["    total = 0.0"] if last[0].lstrip().startswith("total") else []),
                "    for i in range(p.shape[0]):", *lines, *last]

    def element(self, wanted: Sequence[str], bodies: dict[str, Expr], factor: str = ""
                ) -> tuple[list[str], list[str]]:
        """What no element enters, and the locals of one element that ``wanted`` need."""
        hoist = Hoist()
        self.names[self.index] = "i"
        element = ScalarPrinter(self.names, library=self.double.library)
        lines = [f"        {n} = {element.value(hoist(bodies[n]).xreplace(self.locals))}"
                 for n in self._needed(wanted, bodies)]
        head = self.head(factor)
        head += [f"    {symbol} = F({self.double.value(expr)})"
                 for expr, symbol in hoist.known.items()]
        self.functions.update({**element.functions, **self.double.functions})
        return head, lines

    def _needed(self, wanted: Sequence[str], bodies: dict[str, Expr]) -> list[str]:
        needed: set[str] = set()
        todo = list(wanted)
        while todo:
            name = todo.pop()
            if name in bodies and name not in needed:
                needed.add(name)
                todo += [a.name for a in bodies[name].atoms(Access)]
        return [n for n in bodies if n in needed]

    def norm(self, number: int) -> str:
        norm = self.norms[number]
        lines = self.loop(f"sum_{norm.equation.name}", ["_summand"], number,
                          ["        total += float(_summand)", "    return total"],
                          self.summands(norm))
        return "\n".join([f"# {norm.equation}", *lines])

    def summands(self, norm: _Norm) -> dict[str, Expr]:
        """The equations of elements, and what is summed of each."""
        self.locals[Access("_summand", self.index)] = Symbol("_summand", real=True)
        return {**self.elements, "_summand": norm.summand}

    def norm_result(self, number: int) -> str:
        """What is made of a norm's sum; ranks that each have a part of it add the parts first."""
        norm = self.norms[number]
        return "\n".join(["@kernel", f"def norm_{norm.equation.name}(total, step, settings):",
                          *self.head(), f"    return {self.double.value(norm.result)}"])

    def part(self) -> str:
        return "\n".join([*self.comments(), *self.loop(
            "update_part", list(self.optimizer.program.updates.values()), len(self.norms),
            self.stores(), self.elements)])

    def piece(self) -> str:
        """The same, with new parameters at the front of an array of their own."""
        return "\n".join(["# the same, with new parameters in ``piece``", *self.loop(
            "update_piece", list(self.optimizer.program.updates.values()), len(self.norms),
            self.stores("piece"), self.elements, ["piece"])])

    def comments(self) -> list[str]:
        return [f"# {eq}" for eq in self.optimizer.program.equations if not eq.body.atoms(SumOver)]

    def stores(self, parameters: str = "p") -> list[str]:
        """The lines that keep new values, those of parameters in the array of that name."""
        back = {new: old for old, new in self.optimizer.program.updates.items()}
        names = {**self.names, "p": parameters}
        return [f"        {names[back[n]]}[i] = {n}" for n in self.elements if n in back]


def _norm(eq: Equation, index: Any) -> _Norm:
    (node,) = eq.body.atoms(SumOver)
    summand = node.body.xreplace({node.bound[0]: index})
    if eq.indices:
        if not isinstance(summand, Select) or summand.no != 0:
            raise DeclarationError(f"the rule's equation of {eq.name!r} cannot be compiled",
                                   expected="a sum over the elements of one tensor", got=str(eq))
        summand = summand.yes
    return _Norm(eq, summand, eq.body.xreplace({node: Access("_total")}), bool(eq.indices))


def trained_names(layout: Layout, trained: int) -> list[str]:
    return [n for n, slot in layout.slots.items() if int(slot.offset) < trained]


def segments(optimizer: Optimizer, layout: Layout, trained: int, each: bool
             ) -> tuple[list[tuple[int, int]], list[list[float]]]:
    """Pieces of the flat arrays with one set of settings (each of one tensor, where asked for),
    and the factor of every setting in each.

    Raises:
        DeclarationError: a pattern of a group fits no parameter.
    """
    names = trained_names(layout, trained)
    for pattern, _ in optimizer.groups:
        if not any(fnmatchcase(n, pattern) for n in names):
            guess = nearest(pattern, names)
            raise DeclarationError(f"the group {pattern!r} fits no trained parameter",
                                   expected="a pattern of " + ", ".join(names),
                                   mend=f"did you mean {guess!r}?" if guess else None)
    starts = [int(layout.slots[n].offset) for n in names] + [trained]
    pieces: list[tuple[int, int]] = []
    factors: list[list[float]] = []
    apart = matrices(optimizer, layout, trained)
    for name, lo, hi in zip(names, starts, starts[1:], strict=False):
        if name in apart:
            continue
        own = dict.fromkeys(optimizer.settings, 1.0)
        for pattern, values in optimizer.groups:
            own.update(values if fnmatchcase(name, pattern) else {})
        if not each and factors and factors[-1] == list(own.values()) and pieces[-1][1] == lo:
            pieces[-1] = (pieces[-1][0], hi)
        else:
            pieces.append((lo, hi))
            factors.append(list(own.values()))
    return pieces, factors


def update_text(optimizer: Optimizer, layout: Layout, trained: int, parallel: bool,
                streams: bool = False) -> tuple[list[str], dict[str, Any]]:
    """``update_part`` (the loop over lo .. hi), ``update`` (all of it), and functions used;
    ``streams``: several threads write new parameters past the caches (`train_step.streams`)."""
    printer = RulePrinter(optimizer)
    pieces, factors = segments(optimizer, layout, trained,
                               any(norm.each for norm in printer.norms))
    numbers = range(len(printer.norms))
    texts = [make(n) for n in numbers for make in (printer.norm, printer.norm_result)]
    named = [(n.equation.name, n.each) for n in printer.norms]
    rows = [f"    (sum_{name}, norm_{name}, {each})," for name, each in named]
    texts.append("\n".join(["# the sum of a norm, what is made of it, whether each tensor has one",
                            "NORMS = (", *rows, ")"]) if rows else "NORMS = ()")
    texts += [printer.part(), *([printer.piece(), _span(printer)] if streams else [])]
    if not pieces:
        own, table = "settings", ["SEGMENTS = np.zeros((0, 2), np.int64)"]
    elif len(pieces) == 1 and not optimizer.groups and not optimizer.matrix:
        own, table = "settings", [f"SEGMENTS = np.array([[0, {trained}]])"]
    else:
        own = "settings*FACTORS[piece]"
        table = [f"# parts of the flat arrays, and factors of {', '.join(optimizer.settings)}",
                 f"SEGMENTS = np.array({list(map(list, pieces))})",
                 f"FACTORS = np.array({factors})"]
    texts.insert(0, "\n".join(table))
    calls: list[str] = []
    if optimizer.matrix is not None:
        text, functions, calls = matrix_texts(optimizer, layout, trained)
        texts.append(text)
        printer.functions.update(functions)
    if parallel and splits(optimizer):
        texts += _shared(printer, own, "update_span" if streams else "update_part")
        parallel = False
    for ending in (("", "_split") if parallel else ("",)):
        texts.append("\n".join(_whole(printer, own, ending, calls)))
    return texts, printer.functions


def _span(printer: RulePrinter) -> str:
    """The update of elements lo .. hi by one of several threads."""
    flat = ", ".join(["p", "d", *printer.moments])
    return "\n".join([
        "# what one of several threads updates, past the caches", "@joint",
        f"def update_span(lo, hi, members, step, settings, {flat}):",
        "    if members == 1:  # nobody else reads it",
        f"        update_part(lo, hi, step, settings, {flat})", "        return",
        "    piece = own_piece()", "    for first in range(lo, hi, PIECE):",
        "        last = min(first + PIECE, hi)",
        f"        update_piece(first, last, step, settings, piece, {flat})",
        "        stream(piece, p, first, last)", "    settle()"])


def _shared(printer: RulePrinter, own: str, update: str) -> list[str]:
    """What one of several threads does of an update (by the function of that name), and all."""
    handed = ", ".join(["step", "settings", "p", "d", *printer.moments])
    span = "lo + (hi - lo)*part//parts, lo + (hi - lo)*(part + 1)//parts"
    members = ", members" if update == "update_span" else ""
    return [
        "\n".join(["@kernel", f"def update_share(part, parts, members, {handed}):",
                   "    for piece in range(SEGMENTS.shape[0]):",
                   "        lo, hi = SEGMENTS[piece, 0], SEGMENTS[piece, 1]",
                   f"        {update}({span}{members}, step, {own}, "
                   f"{', '.join(['p', 'd', *printer.moments])})"]),
        "\n".join(["@njit(parallel=True, **OPTIONS)",
                   f"def update_launch(address, parts, {handed}):",
                   "    for part in prange(parts):",
                   f"        call_part(address, np.int64(part), parts, parts, {handed})"]),
        "\n".join([f"def update_split(parts, {handed}):",
                   f"    address = address_of(update_share, 0, parts, parts, {handed})",
                   f"    update_launch(address, parts, {handed})"]),
    ]


def _whole(printer: RulePrinter, own: str, ending: str, calls: Sequence[str]) -> list[str]:
    """The update of matrices, then of all segments: norms in blocks, the elements in parts."""
    split, flat = bool(ending), ["p", "d", *printer.moments]
    joined = ", ".join(["step", "settings", *flat])
    lines = ["@njit(parallel=True, **OPTIONS)" if split else "@kernel",
             f"def update{ending}(parts, {joined}):"]
    each = "prange" if split else "range"
    lines += [f"    {call}" for call in calls]
    if printer.norms:
        lines.append("    count = SEGMENTS.shape[0]")
    for number, norm in enumerate(printer.norms):
        name = norm.equation.name
        before = "".join(f"{n.equation.name}_all[piece], " for n in printer.norms[:number])
        lines += [
            f"    {name}_sums = np.zeros(({BLOCKS}, count))",
            f"    for block in {each}({BLOCKS}):",
            "        for piece in range(count):",
            "            lo, hi = SEGMENTS[piece, 0], SEGMENTS[piece, 1]",
            f"            {name}_sums[block, piece] = sum_{name}(",
            f"                lo + (hi - lo)*block//{BLOCKS},",
            f"                lo + (hi - lo)*(block + 1)//{BLOCKS},",
            f"                step, {own}, {before}{', '.join(flat)})",
            f"    {name}_all = np.zeros(count)",
        ]
        result = f"norm_{name}(total, step, settings)"
        if norm.each:
            lines += ["    for piece in range(count):", "        total = 0.0",
                      f"        for block in range({BLOCKS}):",
                      f"            total += {name}_sums[block, piece]",
                      f"        {name}_all[piece] = {result}"]
        else:
            lines += ["    total = 0.0", f"    for block in range({BLOCKS}):",
                      "        for piece in range(count):",
                      f"            total += {name}_sums[block, piece]",
                      f"    {name}_all[:] = {result}"]
    norms = "".join(f"{n.equation.name}_all[piece], " for n in printer.norms)
    span = ("lo + (hi - lo)*part//parts, lo + (hi - lo)*(part + 1)//parts" if split
            else "lo, hi")
    call = f"update_part({span}, step, {own}, {norms}{', '.join(flat)})"
    inner = ["for piece in range(SEGMENTS.shape[0]):",
             "    lo, hi = SEGMENTS[piece, 0], SEGMENTS[piece, 1]", f"    {call}"]
    if split:
        return [*lines, "    for part in prange(parts):", *(f"        {x}" for x in inner)]
    return [*lines, *(f"    {x}" for x in inner)]


def splits(optimizer: Optimizer) -> bool:
    """Whether an update is one loop over elements, which the threads of an epoch share among
    themselves; before one with norms or of matrices they would have to meet again."""
    return optimizer.matrix is None and not RulePrinter(optimizer).norms
