"""A gradient with the optimizer's update behind it, as an epoch runs it.

A thread that has finished some rows of a weight's gradient updates these rows of the weight while
the gradient is in its cache. A parameter is updated so where nothing reads it any more, by this
phase or a later one, where each thread makes whole rows of its gradient, and where the loss is
known before, since nothing is learnt from a step whose loss is not finite. What cannot be (what is
left: `Behinds.rest`) is updated when all is done, and so is everything where the rule needs all
gradients first: a norm, or matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sympy import Mul

from codegen.entries import EntryPrinter
from codegen.loops import Kernel, written
from codegen.optimizer import splits
from codegen.phases import Behind, PhaseSet, Use
from codegen.pipeline import Compiled, Entry

FROM = 2**16  # parameters from which on this pays: fewer stay in the cache anyway
STREAMED = 2**15  # parameters from which on it pays to write them past the caches; at most FROM
AT_ONCE = 2**17  # elements of a gradient that are updated at once: half a megabyte
HIGH = 128  # rows at least, as many as a product copies at once: with fewer it copies more


@dataclass(frozen=True)
class Behinds:
    """Which parameters are updated behind the kernels that make their gradients: from phase
    ``phase`` on, those whose gradients are ``gradients``; ``early`` are the kernels of that phase
    that the loss needs, ``rest`` the spans of the flat arrays that are updated at the end."""

    phase: int
    early: tuple[Kernel, ...]
    gradients: dict[str, str]  # and the parameter of each
    rest: tuple[tuple[int, int], ...]


def streams(compiled: Compiled) -> bool:
    """Whether several threads write new parameters past the caches: where these are many, and each
    updates a part of them on its own."""
    return ("gradient" in compiled.entries and splits(compiled.optimizer)
            and compiled.trained >= STREAMED)


def find_behinds(compiled: Compiled) -> Behinds | None:
    """The updates that go behind gradients; None where none do, or it does not pay."""
    entry = compiled.entries.get("gradient")
    if (entry is None or compiled.optimizer.groups or not splits(compiled.optimizer)
            or len(entry.program.losses) != 1):
        return None
    (loss,) = entry.program.losses
    first = next(n for n, kernels in enumerate(entry.phases)
                 if any(loss in written(k) for k in kernels))
    early = _needed(entry.phases[first], loss)
    last = {name: n for n, kernels in enumerate(entry.phases) for k in kernels
            for name in k.arguments}
    back = {g: p for p, g in entry.program.gradients.items()}
    found: dict[str, str] = {}
    for n, kernels in enumerate(entry.phases[first:], first):
        uses = Counter(name for k in kernels for name in set(k.arguments))
        if entry.schedule.phases[n].kind == "pieces":
            for kernel in (k for k in kernels if n > first or k not in early):
                for name in _whole_rows(entry, kernel):
                    if name in back and last.get(back[name], -1) < n and last[name] == n:
                        if uses[name] == 1:  # the kernel that makes it
                            found[name] = back[name]
    made: dict[str, set[str]] = {}  # with each tensor, all that its first kernel writes
    for names in (written(k) for kernels in entry.phases for k in kernels):
        for name in names:
            made.setdefault(name, names)
    found = {g: p for g, p in found.items() if made[g] <= set(found)}
    size = sum(int(compiled.parameters.slots[p].elements) for p in found.values())
    if not found or size < FROM:
        return None
    return Behinds(first, early, found, _rest(compiled, set(found.values())))


def _whole_rows(entry: Entry, kernel: Kernel) -> set[str]:
    """What a kernel writes, where these are gradients of which each thread makes whole rows."""
    names = written(kernel)
    slots = [entry.plan.slots[name] for name in names]
    rows = all(s.buffer == "d" and s.shape and s.shape[0] == kernel.extent for s in slots)
    return names if kernel.part is not None and rows else set()


def _needed(kernels: Sequence[Kernel], name: str) -> tuple[Kernel, ...]:
    """The kernels of a phase that a tensor of it depends on, in their order."""
    wanted = {name}
    found = []
    for kernel in reversed(kernels):
        if written(kernel) & wanted:
            wanted |= set(kernel.arguments)
            found.append(kernel)
    return tuple(reversed(found))


def _rest(compiled: Compiled, done: set[str]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for name, slot in compiled.parameters.slots.items():
        start, stop = int(slot.offset), int(slot.offset) + int(slot.elements)
        if name in done or start >= compiled.trained:
            continue
        if spans and start - spans[-1][1] < 16:  # nothing but what aligns it lies between
            start = spans.pop()[0]
        spans.append((start, stop))
    return tuple(spans)


class TrainPrinter(EntryPrinter):
    """Prints the gradient with updates behind it, on one thread and on several."""

    def __init__(self, compiled: Compiled, behinds: Behinds, phases: PhaseSet, parallel: bool
                 ) -> None:
        self.behinds = behinds
        self.flat_arrays = ("p", "d", *(f"moment_{m}" for m in compiled.optimizer.moments))
        super().__init__(compiled.entries["gradient"], phases, parallel)
        self.before = next(n for n, u in enumerate(self.uses) if phases[u].updates)

    def _every_use(self) -> list[Use]:
        uses: list[Use] = []
        plan, first = self.entry.plan, self.behinds.phase
        for n, (kernels, block) in enumerate(zip(self.entry.phases, plan.blocks, strict=True)):
            parts = [kernels]
            if n == first and block is None:
                late = tuple(k for k in kernels if k not in self.behinds.early)
                parts = [self.behinds.early, late] if late else parts
            for part in parts:
                uses += self.phases.add(plan, self.flat, part, block,
                                        self._behind if n >= first else None)
        return uses

    def _behind(self, kernel: Kernel) -> Behind | None:
        names = sorted(written(kernel))
        if not all(n in self.behinds.gradients for n in names):
            return None
        shape = self.entry.plan.slots[names[0]].shape
        rows = max(1, AT_ONCE//int(Mul(*shape[1:]))//HIGH)*HIGH
        return Behind(tuple(self.names[n] for n in names), rows, self.flat_arrays)

    @property
    def given_first(self) -> str:
        return ", ".join(["step", "settings", *self.flat_arrays[2:]])

    def texts(self) -> list[str]:
        """Functions that are called by an epoch: updates of rows, of the rest, and the step."""
        def lines(uses: Sequence[Use]) -> list[str]:
            return self.phases.sequence(
                uses, lambda u, row: self.phases[u].call(row, "0", "1", "1"))

        serial = "\n".join([
            "@thin", f"def train(parts, {self.given_first}, {self.arguments}):",
            *(f"    {line}" for line in lines(self.uses[:self.before])),
            f"    loss = {self.loss}", "    if np.isfinite(loss):",
            *(f"        {line}" for line in lines(self.uses[self.before:])),
            "    return loss"])
        return [self._rows(), self._rest(),
                *(p.text() for p in self.phases.phases if p.updates), serial,
                *(self._together() if self.parallel else [])]

    @property
    def _span(self) -> str:
        """The call that updates elements lo .. hi, with what stands for these."""
        flat = ", ".join(self.flat_arrays)
        return ("update_span({}, {}, members, step, settings, " if self.parallel else
                "update_part({}, {}, step, settings, ") + f"{flat})"

    def _rows(self) -> str:
        flat = ", ".join(self.flat_arrays)
        return "\n".join([
            "# the update of the elements whose gradients are rows lo .. hi of a view of d",
            "@joint", f"def update_rows(lo, hi, gradient, members, step, settings, {flat}):",
            "    start = (gradient.ctypes.data - d.ctypes.data)//d.itemsize",
            "    each = gradient.size//gradient.shape[0]",
            f"    {self._span.format('start + lo*each', 'start + hi*each')}"])

    def _rest(self) -> str:
        flat = ", ".join(self.flat_arrays)
        if not self.behinds.rest:
            return "# nothing is left to be updated when all gradients are there"
        return "\n".join([
            "# what is updated when all gradients are there",
            f"REST = np.array({list(map(list, self.behinds.rest))})", "", "",
            "@kernel", f"def update_rest(part, parts, members, step, settings, {flat}):",
            "    for piece in range(REST.shape[0]):",
            "        lo, hi = REST[piece, 0], REST[piece, 1]",
            "        " + self._span.format("lo + (hi - lo)*part//parts",
                                           "lo + (hi - lo)*(part + 1)//parts")])

    def _together(self) -> list[str]:
        table = [f"    ({u.number}, {u.row})," for u in self.uses]
        given = f"{self.given_first}, {self.arguments}"
        return [
            "\n".join(["# the phases of a step in order, and the rows of their tables",
                       "TRAIN = np.array([", *table, "], dtype=np.int64)"]),
            "\n".join(["@kernel", f"def train_part(phase, row, part, parts, members, {given}):",
                       *("    " + line for line in self._switch(self.uses))]),
            "\n".join(["@joint",
                       f"def train_team(member, members, parts, team, turn, {given}):",
                       f"    for use in range({len(self.uses)}):",
                       f"        if use == {self.before} and not np.isfinite({self.loss}):",
                       "            return turn",
                       "        for part in range(parts*member//members, "
                       "parts*(member + 1)//members):",
                       "            train_part(TRAIN[use, 0], TRAIN[use, 1], part, parts, "
                       f"members, {given})",
                       "        turn = wait(team, members, turn)", "    return turn"])]

    def update(self, part: str, parts: str, members: str) -> list[str]:
        """The call that updates what is left."""
        if not self.behinds.rest:
            return []
        flat = ", ".join(self.flat_arrays)
        return [f"update_rest({part}, {parts}, {members}, step, settings, {flat})"]
