"""Entry points of a module: their phases in order, the sections of a gradient, and the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sympy import Integer, Symbol

from codegen.loops import LO, Kernel, Loop, Store, written
from codegen.memory import GIVEN, OWN, SHARE, Block
from codegen.optimizer import splits
from codegen.phases import PhaseSet, Use
from codegen.pipeline import Compiled, Entry
from codegen.print_cpu import KernelPrinter, shaped
from codegen.print_statements import polynomial
from derive.nodes import Access, IntegerAccess, size_symbol
from derive.program import Program, Tensor


def given(program: Program) -> tuple[Tensor, ...]:
    """What is handed in at each step."""
    return tuple(t for t in program.given if t.role not in ("parameter", "state"))


class EntryPrinter:
    """Prints one entry point: its phases one after the other, on one thread and on several."""

    def __init__(self, entry: Entry, phases: PhaseSet, parallel: bool) -> None:
        self.entry, self.phases, self.parallel = entry, phases, parallel
        program = entry.program
        self.given = [t.name for t in program.given if t.role not in ("parameter", "state")]
        self.sizes = phases.sizes
        self.names: dict[object, str] = {**self.sizes}
        self.names.update(phases.names)
        self.flat = {GIVEN + n: f"{phases.names[n]}_flat" for n in self.given}
        self.uses = self._every_use()

    def _every_use(self) -> list[Use]:
        plan = self.entry.plan
        return [u for kernels, block in zip(self.entry.phases, plan.blocks, strict=True)
                for u in self._uses(kernels, block)]

    def _uses(self, kernels: Sequence[Kernel], block: Block | None) -> list[Use]:
        return self.phases.add(self.entry.plan, self.flat, kernels, block)

    @property
    def arguments(self) -> str:
        return ", ".join([*self.sizes.values(), "p", "d", "s", "n", "w", *self.flat.values()])

    def texts(self) -> list[str]:
        """The entry point on one thread, and on ``parts`` threads."""
        name = self.entry.name
        serial = self.phases.sequence(
            self.uses, lambda u, row: self.phases[u].call(row, "0", "1"))
        made = ["\n".join(["@thin", f"def {name}(parts, {self.arguments}):",
                           *("    " + line for line in [*serial, f"return {self.loss}"])])]
        return made + (self._team() if self.parallel else [])

    @property
    def loss(self) -> str:
        """The loss when all phases are done."""
        losses = self.entry.program.losses
        if not losses or self.entry.name == "forward":
            return "0.0"
        slot = self.entry.plan.slots[losses[0]]
        return f"float({slot.buffer}[{polynomial(slot.offset, self.names)}])"

    def _team(self) -> list[str]:
        """The entry point on several threads: each runs its parts of every phase."""
        name = self.entry.name
        table = [f"    ({u.number}, {u.row})," for u in self.uses]
        return [
            "\n".join([f"# the phases of {name} in order, and the rows of their tables",
                       f"{name.upper()} = np.array([", *table, "], dtype=np.int64)"]),
            "\n".join(["@thin",
                       f"def {name}_part(phase, row, part, parts, {self.arguments}):",
                       *("    " + line for line in self._switch(self.uses))]),
            "\n".join(["@joint",
                       f"def {name}_team(member, members, parts, team, turn, {self.arguments}):",
                       f"    for use in range({len(self.uses)}):",
                       "        for part in range(parts*member//members, "
                       "parts*(member + 1)//members):",
                       f"            {name}_part({name.upper()}[use, 0], {name.upper()}[use, 1], "
                       f"part, parts, {self.arguments})",
                       "        turn = wait(team, members, turn)",
                       "    return turn"]),
            *launched(name, f"parts, team, 0, {self.arguments}",
                      f"parts, {self.arguments}", f"return {self.loss}"),
        ]

    def _switch(self, uses: Sequence[Use]) -> list[str]:
        """The call of the phase whose number is ``phase``."""
        lines = []
        for use in {u.number: u for u in uses}.values():
            lines += [f"if phase == {use.number}:",
                      "    " + self.phases[use].call("row", "part", "parts")]
        return lines

    def there(self, tensor: str) -> bool:
        """Whether a caller may look at a tensor: it is there when the entry point returns."""
        return tensor in self.entry.plan.kept

    def table(self) -> str:
        """Where each tensor lies that a caller may look at."""
        rows = []
        for tensor, slot in self.entry.plan.slots.items():
            if tensor in self.entry.program.defined and self.there(tensor):
                shape = "".join(polynomial(e, self.names) + ", " for e in slot.shape)
                rows.append(f'        "{tensor}": ("{slot.buffer}", '
                            f"{polynomial(slot.offset, self.names)}, ({shape.rstrip()})),")
        return "\n".join([f"def _offsets_{self.entry.name}({', '.join(self.sizes.values())}):",
                          "    return {", *rows, "    }"])


@dataclass(frozen=True)
class Section:
    """What runs between two looks from outside: a phase over rows, or one kernel of pieces.
    Sections of one ``phase`` do not read each other: they may run in any order."""

    phase: int
    uses: tuple[Use, ...]
    targets: tuple[str, ...]


class SectionPrinter(EntryPrinter):
    """Prints an entry point one section at a time, for a caller that sends one gradient on its
    way while the next one is computed."""

    def __init__(self, entry: Entry, phases: PhaseSet, parallel: bool) -> None:
        super().__init__(entry, phases, parallel)
        self.sections: list[Section] = []
        number = 0
        for phase, kernels, block in zip(entry.schedule.phases, entry.phases, entry.plan.blocks,
                                         strict=True):
            for parts in [[kernels]] if phase.kind == "rows" else _levels(kernels):
                number += 1
                self.sections += [Section(number, tuple(self._uses(part, block)), _targets(part))
                                  for part in parts]

    def there(self, tensor: str) -> bool:
        """A caller looks between sections too: at what is there from its section to its last
        reader."""
        return self.entry.plan.slots[tensor].buffer not in (OWN, SHARE)

    def section_texts(self) -> list[str]:
        """A function that runs part of one section, and what is whole after each."""
        name = self.entry.name
        uses = [u for section in self.sections for u in section.uses]
        rows, steps, at = [], [], 0
        for section in self.sections:
            rows.append(f"    ({section.phase}, {section.targets!r}),")
            steps.append(f"    ({at}, {at + len(section.uses)}),")
            at += len(section.uses)
        table = [f"    ({u.number}, {u.row})," for u in uses]
        return [
            "\n".join([
                "# sections of the gradient: the phase, and the tensors that are whole after it",
                "SECTIONS = (", *rows, ")",
                "# their phases' functions and rows, and for each section which of these",
                "SECTION_USES = np.array([", *table, "], dtype=np.int64)",
                "SECTION_RANGES = np.array([", *steps, "], dtype=np.int64)"]),
            "\n".join([
                "@kernel", f"def {name}_section(section, part, parts, {self.arguments}):",
                "    for use in range(SECTION_RANGES[section, 0], SECTION_RANGES[section, 1]):",
                "        phase, row = SECTION_USES[use, 0], SECTION_USES[use, 1]",
                *("        " + line for line in self._switch(uses))]),
            *([self._section_launch()] if self.parallel else []),
        ]

    def _section_launch(self) -> str:
        name = f"{self.entry.name}_section"
        return "\n\n\n".join([
            "\n".join(["@njit(parallel=True, **OPTIONS)",
                       f"def {name}_launch(address, section, parts, {self.arguments}):",
                       "    for part in prange(parts):",
                       "        call_part(address, section, np.int64(part), parts, "
                       f"{self.arguments})"]),
            "\n".join([f"def {name}_split(section, parts, {self.arguments}):",
                       f"    address = address_of({name}, section, 0, parts, {self.arguments})",
                       f"    {name}_launch(address, section, parts, {self.arguments})"])])


def _levels(kernels: Sequence[Kernel]) -> list[list[tuple[Kernel, ...]]]:
    """Kernels of pieces, those that read what others make behind these: a caller may add up what
    several ranks have made before it is read."""
    level: dict[str, int] = {}
    found: list[list[tuple[Kernel, ...]]] = []
    for kernel in kernels:
        own = 1 + max((level[t] for t in kernel.arguments if t in level), default=-1)
        level |= dict.fromkeys(written(kernel), own)
        found += [[] for _ in range(own + 1 - len(found))]
        found[own].append((kernel,))
    return found


def _targets(kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """The tensors that kernels write."""
    return tuple(sorted({name for k in kernels for name in written(k)}))


class Learning(Protocol):
    """A step of an epoch whose gradient has updates behind it (`train_step.TrainPrinter`)."""

    @property
    def given_first(self) -> str: ...

    def update(self, part: str, parts: str, members: str) -> list[str]: ...


def epoch_texts(compiled: Compiled, gradient: EntryPrinter, parallel: bool,
                train: Learning | None = None) -> list[str]:
    """Gathering of a minibatch, and the loop over minibatches; ``train``: the gradient is one with
    updates behind it."""
    program, batch = compiled.program, gradient.entry.schedule.batch
    tensors = list(given(program))
    texts, calls = [], []
    sizes = list(gradient.sizes.values())
    size_of = gradient.sizes.get(batch) if batch is not None else None
    rows = size_symbol("rows")
    for tensor in tensors:
        if batch is None or batch not in tensor.shape:
            continue
        text, call = _gather(tensor, batch, gradient, rows)
        texts.append(text)
        calls.append(call)
    moments = [f"moment_{m}" for m in compiled.optimizer.moments]
    data = [f"{gradient.flat.get(GIVEN + t.name, t.name + '_flat')}_all" for t in tensors]
    batches = [gradient.flat.get(GIVEN + t.name, t.name + "_flat") for t in tensors]
    handed = {t.name: (b if batch is not None and batch in t.shape else a)
              for t, a, b in zip(tensors, data, batches)}
    passed = ", ".join([*sizes, "p", "d", "s", "n", "w", *(handed[n] for n in gradient.given)])
    arguments = ", ".join(["order", "batch", "rows", "losses", "step", "settings", *sizes,
                           "p", "d", "s", "n", "w", *moments, *data, *batches])
    updated = ", ".join(["step", "settings", "p", "d", *moments])
    between = ["for i in range(s.shape[0]):", "    s[i] = n[i]",
               *(f"{handed[t.name]}[0] += 1  # new random numbers" for t in tensors
                 if t.role == "random")]
    name, after = "gradient", [f"update(parts, {updated})"]
    if train is not None:
        name, after = "train", train.update("0", "1", "1")
        passed = f"{train.given_first.replace('step', 'step + 1', 1)}, {passed}"
    alone = _Epoch(size_of, calls, f"loss = {name}(parts, {passed})", between, after)
    texts.append("\n".join(["@kernel", f"def epoch(parts, {arguments}):", *alone.lines(),
                            "    return total, step, False"]))
    if not parallel:
        return texts
    own = "for part in range(parts*member//members, parts*(member + 1)//members):\n            "
    share = [f"{own}update_share(part, parts, members, {updated})"]
    if not splits(compiled.optimizer):
        share = [f"if member == 0:\n            update(1, {updated})"]
    if train is not None:
        share = [own + call for call in train.update("part", "parts", "members")]
    together = _Epoch(size_of, calls, "\n        ".join([
        "turn = wait(team, members, turn)",
        f"turn = {name}_team(member, members, parts, team, turn, {passed})",
        f"loss = {gradient.loss}"]), between, share, team=True)
    texts.append("\n".join([
        "@joint", f"def epoch_team(member, members, parts, team, found, {arguments}):",
        "    turn = 0", *together.lines(),
        "    if member == 0:",
        "        found[0], found[1], found[2] = total, step, 0.0", "    return turn"]))
    given_team = f"parts, team, found, {arguments}"
    texts += [_launch("epoch", given_team, f"parts, found, {arguments}"), "\n".join([
        f"def epoch_split(parts, members, found, {arguments}):",
        '    """Steps of an epoch on so many threads. In ``found``: the sum of losses times rows,',
        "    to which these steps' are added, then the last step's number, and 1 where its loss is",
        '    not finite."""',
        "    team, members = np.zeros(TEAM, np.int64), min(members, team_of(parts))",
        f"    address = address_of(epoch_team, 0, members, {given_team})",
        f"    epoch_launch(members, team, address, parts, found, {arguments})",
        "    if team[8] == 2:",
        f"        epoch_team(0, 1, {given_team})"])]
    return texts


def launched(name: str, handed: str, arguments: str, last: str) -> list[str]:
    """A parallel loop, and the function that begins it, in Python; where the threads do not meet,
    one does the work of all."""
    return [
        _launch(name, handed, arguments),
        "\n".join([f"def {name}_split({arguments}):",
                   "    team, members = np.zeros(TEAM, np.int64), team_of(parts)",
                   "    if members > 1:",
                   f"        address = address_of({name}_team, 0, members, {handed})",
                   f"        {name}_launch(members, team, address, {arguments})",
                   "    if members == 1 or team[8] == 2:",
                   f"        {name}_team(0, 1, {handed})",
                   f"    {last}"]),
    ]


def _launch(name: str, handed: str, arguments: str) -> str:
    """One parallel loop around ``{name}_team``, with one call in it, by address: Numba's analysis
    of a parallel loop is costly, and LLVM goes through all that it can see inside four times."""
    return "\n".join(["@njit(parallel=True, **OPTIONS)",
                      f"def {name}_launch(members, team, address, {arguments}):",
                      "    for member in prange(members):",
                      "        if meet(team, members):",
                      f"            call_team(address, np.int64(member), members, {handed})"])


@dataclass(frozen=True)
class _Epoch:
    """The lines of a loop over minibatches: on one thread, or those of one member of a team."""

    size: str | None
    gathers: Sequence[str]
    gradient: str
    between: Sequence[str]
    update: Sequence[str]
    team: bool = False

    def lines(self) -> list[str]:
        rows, own = "order.shape[0]", self.team
        stop = ["found[0], found[1], found[2] = total, step, 1.0", "return turn"] if own else [
            "return total, step, True"]
        return ["    " + line for line in [
            "total = found[0]" if own else "total = 0.0",
            f"for first in range(0, {rows}, batch):",
            *([f"    {self.size} = min(batch, {rows} - first)"] if self.size else []),
            *([f"    low, high = {self.size}*member//members, {self.size}*(member + 1)//members"]
              if own and self.size else
              [f"    low, high = 0, {self.size}"] if self.size and self.gathers else []),
            *(f"    {call}" for call in self.gathers),
            *(f"    {line}" for line in self.gradient.split("\n        ")),
            *self._first(["losses[first//batch] = loss"]),
            "    if not np.isfinite(loss):",
            *(f"        {line}" for line in stop),
            "    step += 1",
            *self._first(self.between),
            *(f"    {line}" for call in self.update for line in call.split("\n        ")),
            f"    total += loss*{self.size or rows}",
        ]]

    def _first(self, lines: Sequence[str]) -> list[str]:
        if not self.team:
            return [f"    {line}" for line in lines]
        return ["    if member == 0:", *(f"        {line}" for line in lines)]


def _gather(tensor: Tensor, batch: Symbol, gradient: EntryPrinter, rows: Symbol
            ) -> tuple[str, str]:
    """The kernel that copies rows of a data set into a minibatch, and the call of it."""
    kind = IntegerAccess if tensor.dtype == "int" else Access
    at = next(i for i in tensor.indices if i.size == batch)
    row = IntegerAccess("order", at + LO)
    source = kind(f"{tensor.name}_all", *(row if i == at else i for i in tensor.indices))
    body: Any = Store(kind(f"{tensor.name}_batch", *tensor.indices), source)
    for index in reversed(tensor.indices):
        body = Loop(index, Integer(0), index.size, (body,))
    names: dict[str, str] = {n: n for n in ("order", f"{tensor.name}_all",
                                            f"{tensor.name}_batch")}
    kernel = Kernel(f"gather_{tensor.name}", ("order", f"{tensor.name}_all",
                                              f"{tensor.name}_batch"), None, (body,), (),
                    tuple(s for s in gradient.entry.program.sizes if s in tensor.shape))
    printer = KernelPrinter(kernel, names)
    text = printer.text().replace("(lo, hi, ", "(lo, ")
    whole = [rows if s == batch else s for s in tensor.shape]
    flat = gradient.flat.get(GIVEN + tensor.name, f"{tensor.name}_flat")

    sizes = [gradient.sizes[s] for s in kernel.sizes]
    # each member of a team gathers its rows; of a batch that is not in front all of them
    copy = shaped(flat, "0", tensor.shape, gradient.names)
    lead = tensor.shape[0] == batch
    own = gradient.sizes[batch]
    sizes = ["high - low" if lead and x == own else x for x in sizes]
    arguments = ["first + low" if lead else "first", *sizes, "order",
                 shaped(f"{flat}_all", "0", whole, gradient.names),
                 f"{copy}[low:high]" if lead else copy]
    return text, f"gather_{tensor.name}({', '.join(arguments)})"
