"""Phases as functions: those that differ only in where their tensors lie are one function.

A deep network repeats a layer, and compile time grows with the text. So a phase is known by what
it calls and by the shapes and buffers of its tensors; offsets that differ from use to use stand in
a table with one row for each use, and a sequence that repeats is a loop over ``layer``: inside a
phase, and from phase to phase. An offset is a polynomial in the run-time sizes, the table holds
its coefficients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sympy import Add, Expr, Mul, Symbol

from codegen.loops import Kernel, written
from codegen.memory import OWN, PART, SHARE, Block, Plan
from codegen.print_cpu import shaped
from codegen.print_statements import polynomial
from codegen.repeats import Run, find_runs
from codegen.shares import PARTS

ROWS = "rows"  # of the block
CHUNK = 48  # calls in one function: compile time grows faster than its length


_ROWS = Symbol(ROWS, integer=True, positive=True)


@dataclass(frozen=True)
class Use:
    """One use of a phase: the number of its function, and the row of its table."""

    number: int
    row: int


@dataclass(frozen=True, eq=False)
class Place:
    """A tensor as a phase sees it; ``offset`` is what differs from use to use. There is one
    object for each tensor of a phase, so that comparing is cheap. ``rows``: in a phase of blocks,
    it has rows, of which a kernel sees those of the block. ``share``: it begins as zeros."""

    name: str
    buffer: str
    shape: tuple[Expr, ...]
    offset: Expr
    rows: bool = False
    share: bool = False


@dataclass(frozen=True)
class Behind:
    """The optimizer's update behind a kernel that makes ``gradients``: so many rows of these at a
    time; ``flat`` are the arrays that it works on."""

    gradients: tuple[str, ...]
    rows: int
    flat: tuple[str, ...]

    def lines(self, call: str, start: str, stop: str) -> list[str]:
        given = ", ".join(["members", "step", "settings", *self.flat])
        return [f"first, most = {start}, {stop}",
                f"for lo in range(first, most, {self.rows}):",
                f"    hi = min(lo + {self.rows}, most)", f"    {call}",
                *(f"    update_rows(lo, hi, {g}, {given})" for g in self.gradients)]


@dataclass(frozen=True, eq=False)
class Call:
    """A kernel with its arguments; ``extent`` is what is split among threads (None: nothing).
    Calls of equal ``key`` differ only in where their tensors lie."""

    kernel: str
    extent: str | None
    sizes: tuple[str, ...]
    places: tuple[Place, ...]
    key: int
    behind: Behind | None = None

    def line(self) -> list[str]:
        others = [*self.sizes, *(p.name for p in self.places)]
        if self.behind is not None:
            return self.behind.lines(f"{self.kernel}({', '.join(['lo', 'hi', *others])})",
                                     f"{self.extent}*part//parts",
                                     f"{self.extent}*(part + 1)//parts")
        if self.extent == ROWS:
            return [f"{self.kernel}({', '.join(['0', ROWS, *others])})"]
        if self.extent is None:
            return ["if part == 0:", f"    {self.kernel}({', '.join(['0', '1', *others])})"]
        span = [f"{self.extent}*part//parts", f"{self.extent}*(part + 1)//parts"]
        return [f"{self.kernel}({', '.join([*span, *others])})"]


def _places(calls: Iterable[Call]) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(p for c in calls for p in c.places))


def _pattern(calls: Sequence[Call]) -> tuple[int, ...]:
    """Which arguments are the same tensor."""
    order = {p: n for n, p in enumerate(_places(calls))}
    return tuple(order[p] for c in calls for p in c.places)


def call_runs(calls: Sequence[Call]) -> list[Run]:
    known: dict[tuple[int, int], tuple[int, ...]] = {}

    def pattern(part: slice) -> tuple[int, ...]:
        place = (part.start, part.stop)
        if place not in known:
            known[place] = _pattern(calls[part])
        return known[place]

    return find_runs([c.key for c in calls], lambda a, b: pattern(a) == pattern(b))


def chunks(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """The calls of a phase, cut where a function would become long."""
    cuts, length = [0], 0
    for run in call_runs(calls):
        pieces = run.length if run.times == 1 else 1
        for n in range(pieces):
            own = 1 if run.times == 1 else run.length
            if length and length + own > CHUNK:
                cuts.append(run.start + n)
                length = 0
            length += own
    return [calls[a:b] for a, b in zip(cuts, [*cuts[1:], len(calls)], strict=True)]


@lru_cache(maxsize=65536)
def coefficients(offset: Expr, sizes: tuple[Symbol, ...]) -> dict[tuple[int, ...], int]:
    """An offset, multiplied out, as a polynomial in the run-time sizes: powers of these, and a
    coefficient each."""
    found: dict[tuple[int, ...], int] = {}
    for term in Add.make_args(offset):
        number, rest = term.as_coeff_Mul()
        powers = rest.as_powers_dict()
        monomial = tuple(int(powers.get(s, 0)) for s in sizes)
        found[monomial] = found.get(monomial, 0) + int(number)
    return found


class Phase:
    """A phase's function: the calls of its first use, and the offsets of every use."""

    def __init__(self, number: int, calls: Sequence[Call], sizes: dict[Symbol, str],
                 block: Block | None, batch: Symbol | None) -> None:
        self.number, self.calls, self.sizes = number, calls, sizes
        self.symbols = {**sizes, PARTS: "parts", PART: "part"}
        self.block, self.batch = block, batch
        self.rows: dict[tuple[Expr, ...], int] = {}
        self._known: dict[Expr, dict[tuple[int, ...], int]] = {}

    def use(self, calls: Sequence[Call]) -> Use:
        offsets = tuple(p.offset for piece in self._pieces(calls) for run in call_runs(piece)
                        for turn in run.turns() for p in _places(piece[turn]))
        return Use(self.number, self.rows.setdefault(offsets, len(self.rows)))

    def _pieces(self, calls: Sequence[Call]) -> list[Sequence[Call]]:
        """What is one function each; around those of a phase in blocks goes the loop over these."""
        return [calls] if self.block is None else chunks(calls)

    @property
    def name(self) -> str:
        return f"phase{self.number}"

    @property
    def table(self) -> str:
        return self.name.upper()

    @property
    def buffers(self) -> list[str]:
        found = ("w" if p.buffer == OWN else p.buffer for p in _places(self.calls))
        return list(dict.fromkeys(found))

    @property
    def arguments(self) -> list[str]:
        row = ["row"] if len(self.rows) > 1 else []
        behind = next((c.behind for c in self.calls if c.behind is not None), None)
        own = ["members", "step", "settings", *behind.flat] if behind is not None else []
        return [*row, "part", "parts", *self.sizes.values(), *dict.fromkeys([*self.buffers, *own])]

    @property
    def updates(self) -> bool:
        """Whether the optimizer works in it."""
        return any(c.behind is not None for c in self.calls)

    def call(self, row: str, part: str, parts: str, members: str = "members") -> str:
        """The call of the function; ``members``: how many threads run the parts, which matters
        where the optimizer works in it."""
        given = {"row": row, "part": part, "parts": parts, "members": members}
        return f"{self.name}({', '.join(given.get(a, a) for a in self.arguments)})"

    def text(self) -> str:
        bodies: list[list[str]] = []
        columns = 0
        for piece in self._pieces(self.calls):
            body, columns = self._body(piece, columns)
            bodies.append(body)
        zeros = self._zeros()
        used = any(f"{self.table}[" in line for body in (*bodies, zeros) for line in body)
        functions = []
        if self.block is not None and self.batch is not None:
            inner = [*self.arguments, "first", ROWS, "most", OWN]
            names = [f"{self.name}_{n}" for n in range(1, len(bodies) + 1)]
            functions = [_function(n, inner, b, "kernel")
                         for n, b in zip(names, bodies, strict=True)]
            calls = [f"    {n}({', '.join(inner)})" for n in names]
            bodies = [[*zeros, *self._loop(self.block, self.sizes[self.batch]), *calls]]
        else:
            bodies[0] = [*zeros, *bodies[0]]
        functions += [_function(self.name, self.arguments, body) for body in bodies]
        return "\n".join(self._table() if used else []) + "\n\n\n".join(functions)

    def _body(self, calls: Sequence[Call], columns: int) -> tuple[list[str], int]:
        """The lines of some calls, whose tensors are ``columns`` of the table and those after."""
        body: list[str] = []
        viewed: set[Place] = set()
        for run in call_runs(calls):
            turn = calls[next(run.turns())]
            places = _places(turn)
            if run.times == 1:
                body += [self._view(p, [columns + n], "") for n, p in enumerate(places)
                         if p not in viewed]
                viewed |= set(places)
                body += [line for call in turn for line in call.line()]
            else:
                body.append(f"for layer in range({run.times}):")
                inner = [self._view(p, range(columns + n, columns + run.times*len(places),
                                             len(places)), f" + {len(places)}*layer")
                         for n, p in enumerate(places)]
                inner += [line for call in turn for line in call.line()]
                body += ["    " + line for line in inner]
                names = {p.name for p in places}  # which now mean the tensors of the last layer
                viewed = {p for p in viewed if p.name not in names}
            columns += len(places)*run.times
        return body, columns

    def _zeros(self) -> list[str]:
        """The lines that begin the shares of a phase."""
        lines: list[str] = []
        columns = 0
        for piece in self._pieces(self.calls):
            for run in call_runs(piece):
                places = _places(piece[next(run.turns())])
                step, indent = (f" + {len(places)}*layer", "    ") if run.times > 1 else ("", "")
                for n, place in ((n, p) for n, p in enumerate(places) if p.share):
                    lines += [f"for layer in range({run.times}):"] if indent else []
                    ends = range(columns + n, columns + run.times*len(places), len(places))
                    lines += [f"{indent}{self._view(place, ends, step)}",
                              f"{indent}{place.name}[...] = 0"]
                columns += len(places)*run.times
        return lines

    def _loop(self, block: Block, batch: str) -> list[str]:
        """The loop over blocks of rows, and this part's own place in the arena."""
        length = f"most*({polynomial(block.elements, {**self.sizes})})"
        return [
            f"most = min({block.rows}, -(-{batch}//parts))",
            f"{OWN} = w[w.shape[0] - (parts - part)*{length}:]",
            f"lo, hi = {batch}*part//parts, {batch}*(part + 1)//parts",
            f"blocks = (hi - lo + {block.rows - 1})//{block.rows}",
            "for block in range(blocks):",
            "    first = lo + (hi - lo)*block//blocks",
            "    rows = lo + (hi - lo)*(block + 1)//blocks - first",
        ]

    def _view(self, place: Place, columns: Sequence[int], step: str) -> str:
        """``z2 = view(w, …, (B, 64))``: a tensor as a part of its flat buffer."""
        every = {row[c] for row in self.rows for c in columns}
        if len(every) == 1:
            offset = polynomial(place.offset, {**self.symbols})
        else:
            row = "row" if len(self.rows) > 1 else "0"
            needed = {m for e in every for m in self._of(e)}
            offset = " + ".join(
                f"{self.table}[{row}, {columns[0]}{step}, {n}]"
                + "".join(f"*{t}" for t in self._factors(m))
                for n, m in enumerate(self._monomials) if m in needed)
        shape, names = place.shape, {**self.symbols}
        if place.buffer == OWN:
            offset = f"most*({offset})"
        elif place.rows:
            offset += f" + first*{polynomial(Mul(*shape[1:]), names)}"
        if place.rows:
            shape, names = (_ROWS, *shape[1:]), {**names, _ROWS: ROWS}
        return f"{place.name} = {shaped(place.buffer, offset, shape, names)}"

    def _factors(self, monomial: tuple[int, ...]) -> list[str]:
        powers = zip(self.symbols.values(), monomial, strict=True)
        return [name for name, power in powers for _ in range(power)]

    def _of(self, offset: Expr) -> dict[tuple[int, ...], int]:
        if offset not in self._known:
            self._known[offset] = coefficients(offset, tuple(self.symbols))
        return self._known[offset]

    @cached_property
    def _monomials(self) -> list[tuple[int, ...]]:
        """Those of all offsets, once all uses are known."""
        return sorted({m for row in self.rows for e in row for m in self._of(e)})

    def _table(self) -> list[str]:
        monomials = self._monomials
        names = ", ".join("*".join(self._factors(m)) or "1" for m in monomials)
        rows = []
        for row in self.rows:
            found = [self._of(e) for e in row]
            rows.append("    [" + ", ".join(
                "[" + ", ".join(str(c.get(m, 0)) for m in monomials) + "]"
                for c in found) + "],")
        return [f"# where the tensors of {self.name} lie, use by use: coefficients of {names}",
                f"{self.table} = np.array([", *rows, "], dtype=np.int64)", "", "", ""]


def _function(name: str, arguments: Sequence[str], body: Sequence[str],
              decorator: str = "thin") -> str:
    return "\n".join([f"@{decorator}", f"def {name}({', '.join(arguments)}):",
                      *("    " + line for line in body)])


class PhaseSet:
    """The phases of all entry points of a module.

    ``names`` are the identifiers of tensors, ``sizes`` those of run-time sizes, ``shared`` the
    kernel that is called for each kernel's name.
    """

    def __init__(self, names: dict[str, str], sizes: dict[Symbol, str],
                 shared: dict[str, str]) -> None:
        self.names, self.sizes, self.shared = names, sizes, shared
        self.phases: list[Phase] = []
        self._known: dict[Hashable, Phase] = {}
        self._keys: dict[Hashable, int] = {}

    def add(self, plan: Plan, flat: dict[str, str], kernels: Sequence[Kernel],
            block: Block | None, behind: Callable[[Kernel], Behind | None] | None = None
            ) -> list[Use]:
        """The uses that run ``kernels``, with tensors where ``plan`` puts them; ``flat`` names
        the buffers of what is handed in, ``block`` is how the phase is cut; ``behind`` says
        what is updated behind a kernel."""
        made = {name for k in kernels for name in written(k)}
        places = {}
        for tensor in dict.fromkeys(t for k in kernels for t in k.arguments):
            slot, name = plan.slots[tensor], self.names[tensor]
            if slot.buffer == SHARE:
                own = tensor in made
                places[tensor] = (
                    Place(name, "w", slot.shape, slot.offset, share=True) if own else
                    Place(name, "w", (PARTS, *slot.shape), slot.offset.subs(PART, 0)))
                continue
            places[tensor] = Place(name, flat.get(slot.buffer, slot.buffer),
                                   slot.shape, slot.offset,
                                   block is not None and slot.shape[:1] == (plan.batch,))
        calls = [self._call(k, places, block, behind(k) if behind else None) for k in kernels]
        # the loop over blocks goes around the whole phase, which is one function then
        parts = chunks(calls) if block is None else [calls]
        return [self._use(c, block, plan.batch) for c in parts]

    def _call(self, kernel: Kernel, of: dict[str, Place], block: Block | None,
              behind: Behind | None) -> Call:
        places = tuple(of[t] for t in kernel.arguments)
        extent = None if kernel.part is None else polynomial(kernel.extent, {**self.sizes})
        extent = extent if block is None else ROWS
        known = {**self.sizes, PARTS: "parts"}
        name, sizes = self.shared[kernel.name], tuple(known[s] for s in kernel.sizes)
        key = (name, extent, sizes, tuple((p.buffer, p.shape) for p in places), behind is None)
        return Call(name, extent, sizes, places, self._keys.setdefault(key, len(self._keys)),
                    behind)

    def _use(self, calls: Sequence[Call], block: Block | None, batch: Symbol | None) -> Use:
        key = (tuple(c.key for c in calls), _pattern(calls), block)
        if key not in self._known:
            self._known[key] = Phase(len(self.phases) + 1, calls, self.sizes, block, batch)
            self.phases.append(self._known[key])
        return self._known[key].use(calls)

    def __getitem__(self, use: Use) -> Phase:
        return self.phases[use.number - 1]

    def sequence(self, uses: Sequence[Use],
                 call: Callable[[Use, str], str]) -> list[str]:
        """Lines that run ``uses`` one after the other; ``call`` prints one with its row."""
        lines: list[str] = []
        for run in find_runs([u.number for u in uses],
                             lambda a, b: _follows(uses[a], uses[b])):
            first = uses[next(run.turns())]
            if run.times == 1:
                lines += [call(u, str(u.row)) for u in first]
                continue
            steps = Counter(u.number for u in first)
            lines.append(f"for layer in range({run.times}):")
            lines += ["    " + call(u, f"{u.row} + {steps[u.number]}*layer") for u in first]
        return lines


def _follows(turn: Sequence[Use], after: Sequence[Use]) -> bool:
    """Whether each phase has gone on by as many rows as a turn has uses of it."""
    steps = Counter(u.number for u in turn)
    return all(v.row - u.row == steps[u.number] for u, v in zip(turn, after, strict=True))
