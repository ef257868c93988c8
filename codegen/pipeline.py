"""The code generator's stages in order: this file reads as the architecture.

    program        equations (derive.Program), only those that an entry point needs
    → packed       products over windows as plain products, what is the same in every row once,
                   sums over rows as sums of the threads' shares
                                                (taps.py, pack.py, invariants.py, shares.py)
    → laid out     intermediates in the order in which products are largest, steps of
                   recurrences with little beside their product     (layouts.py, recurrences.py)
    → tiled        softmax between products, tile by tile (tile_search.py, tiles.py, tile_loops.py)
    → schedule     phases of tasks, each split over one index            (schedule.py)
    → memory       a place for every tensor in a few flat buffers        (memory.py)
    → loops        one loop-nest tree for each form of task
                                                     (alike.py, lower.py, ranges.py, fuse.py)
    → text         the trees printed for one target, in the template     (print_cpu.py, module.py)

An emitted module has three entry points over the same kernels: ``forward`` (every tensor that the
data alone determine), ``loss``, and ``gradient`` (the loss and all gradients and Jacobians). Each
is a program of its own, taken through the same stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sympy import Add, Integer, Mul, Symbol

from codegen.alike import Forms
from codegen.collection import uncollected
from codegen.common_sums import common_sums
from codegen.invariants import hoist_rows
from codegen.layouts import laid_out
from codegen.loops import Kernel
from codegen.lower import group_tasks, lower_tasks
from codegen.memory import Layout, Plan, Storage, flat_layout, plan_memory
from codegen.pack import Packing, pack
from codegen.rates import RATES
from codegen.recompute import fit
from codegen.recurrences import stepped
from codegen.schedule import Phase, Schedule, Task, choose_batch, make_schedule
from codegen.shares import shared_sums
from codegen.taps import single_taps
from codegen.tile_search import tiled
from codegen.tiles import Sweep
from derive.errors import DerivationError
from derive.inference import label_inputs
from derive.optimizers import Optimizer
from derive.program import Program

STORAGE = Storage()
SHOWN = 64  # what each run-time size is where memory is told or limited
Groups = tuple[tuple[Task, ...], ...]
STAGES = ("simplified", "packed", "schedule", "memory", "loops", "cost", "text")


@dataclass(frozen=True)
class Entry:
    """One entry point, through all stages but the text."""

    name: str
    schedule: Schedule
    plan: Plan
    phases: tuple[tuple[Kernel, ...], ...]

    @property
    def program(self) -> Program:
        return self.schedule.program


@dataclass(frozen=True)
class Compiled:
    """Everything that the text is printed from: the program as it was derived, and ``packed``,
    with the tensors that products are packed in."""

    program: Program
    packed: Program
    optimizer: Optimizer
    parameters: Layout
    trained: int
    states: Layout
    entries: dict[str, Entry]
    labels: tuple[str, ...]
    storage: str | None = None  # "float16" or "bfloat16", where some intermediates are stored so
    windows: tuple[tuple[str, str], ...] = ()  # sums over windows, and the way of each

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each equation: its place in the program, as in the document."""
        return equation_numbers(self.program)


def equation_numbers(program: Program) -> dict[str, int]:
    """The number of each equation in the document; what was packed for one has that one's."""
    packed = {eq.name: eq.tensor.origin[1] for eq in program.equations
              if eq.tensor.origin is not None and eq.tensor.origin[0] in ("packed", "share")}
    own = [eq.name for eq in program.equations if eq.name not in packed]
    numbers = {name: n for n, name in enumerate(own, 1)}

    def number(name: str) -> int:  # what is packed may be cut into shares, too
        return number(packed[name]) if name in packed else numbers[name]

    return {eq.name: number(eq.name) for eq in program.equations}


def determined(program: Program, given: Iterable[str]) -> tuple[str, ...]:
    """Targets of the equations that the given tensors and the parameters determine."""
    known = set(given) | {t.name for t in program.tensors.values()
                          if t.role in ("parameter", "state")}
    names = []
    for group in program.groups:
        own = {eq.name for eq in group.equations}
        if all(r in known or r in own for eq in group.equations for r in eq.reads):
            known |= own
            names += [eq.name for eq in group.equations]
    return tuple(names)


@dataclass(frozen=True)
class _Planner:
    """One program through schedule and memory plan; ``kept`` is wanted when all is done."""

    batch: Symbol | None
    parameters: Layout
    states: Layout
    kept: frozenset[str]
    storage: Storage
    forms: Forms
    device: bool

    def plan(self, program: Program) -> tuple[Schedule, tuple[Groups, ...], Plan]:
        sweeps: tuple[Sweep, ...] = ()
        if self.storage.reuse and not self.device:  # a GPU's kernels are launched one by one
            program = stepped(laid_out(program, self.batch, self.kept), self.kept)
        if self.storage.reuse or isinstance(self.storage.tiles, tuple):
            program, sweeps = tiled(program, self.batch, self.kept, self.storage.tiles,
                                    self.device)
        schedule = make_schedule(program, self.batch,
                                 False if self.device else self.storage.columns, sweeps)
        forms = self.forms.of(schedule.stored)
        groups = tuple(group_tasks(phase, forms, self.device) for phase in schedule.phases)
        if self.device:  # kernels follow each other, and there is a barrier behind each
            phases = [(Phase("pieces", tasks), (tasks,)) for kernels in groups
                      for tasks in kernels]
            schedule = replace(schedule, phases=tuple(p for p, _ in phases))
            groups = tuple(g for _, g in phases)
        return schedule, groups, plan_memory(schedule, groups, self.parameters, self.states,
                                             self.kept, self.storage)


def shown_elements(plan: Plan) -> int:
    """Work space on two threads, with `SHOWN` of each run-time size."""
    arena = plan.arena(Integer(2))
    return int(arena.subs(dict.fromkeys(arena.free_symbols, SHOWN)))


def compile_entry(name: str, program: Program, batch: Symbol | None, numbers: Mapping[str, int],
                  parameters: Layout, states: Layout, kept: Iterable[str], storage: Storage,
                  forms: Forms, device: bool = False) -> Entry:
    """One program through schedule, memory plan and lowering; ``kept`` is wanted when the entry
    point returns, ``numbers`` are those of the equations, ``forms`` keeps the kernels that layers
    and entry points share."""
    planner = _Planner(batch, parameters, states, frozenset(kept), storage, forms, device)
    schedule, groups, plan = planner.plan(program)
    limit = storage.recompute if name == "gradient" and not device else None
    if limit is not None and batch is not None and shown_elements(plan) > limit:
        planner = replace(planner, storage=replace(storage, short=True))
        schedule, groups, plan = planner.plan(program)
    if limit is not None and batch is not None and shown_elements(plan) > limit:
        program = fit(program, batch, limit, lambda one: shown_elements(planner.plan(one)[2]))
        schedule, groups, plan = planner.plan(program)
    known = dict(numbers)
    for eq in schedule.program.equations:  # what was made of the equations of this entry point
        if eq.name not in known and eq.tensor.origin is not None:
            known[eq.name] = known[eq.tensor.origin[1]]
    own = forms.of(schedule.stored)

    def kernel(tasks: tuple[Task, ...]) -> Kernel:
        def lower() -> Kernel:
            return lower_tasks(known, tasks, own.shapes, device)

        return lower() if device else own.kernel(tasks, known, lower)

    return Entry(name, schedule, plan, tuple(tuple(map(kernel, tasks)) for tasks in groups))


@uncollected()
def compile_program(program: Program, optimizer: Optimizer,
                    only: tuple[str, ...] = ("forward", "loss", "gradient"),
                    outputs: Iterable[str] = (), storage: Storage = STORAGE,
                    device: bool = False, half: str | None = None) -> Compiled:
    """A derived program through all stages but the text.

    Args:
        only: the names of its entry points.
        outputs: what ``forward`` is for; by default everything declared that the data determine.
        storage: how intermediates are stored.
        device: for a GPU: kernels one after the other, each spread over all threads.
        half: "float16" or "bfloat16": in which intermediates are stored, on a device.

    Raises:
        DerivationError: the program has no gradients, or gradients of no loss.
        DeclarationError: a parameter has a run-time size.
    """
    if half is not None:
        from codegen.half import with_scale

        program, storage = with_scale(program, half), replace(storage, half=True)
    forward_only = not program.losses and not program.gradients
    lossless = not program.losses and set(program.gradients) <= set(program.jacobians)
    if not lossless and (len(program.losses) != 1 or not program.gradients):
        raise DerivationError(
            f"{program.name!r} has no gradient to make kernels of",
            expected="a derived program with one loss",
            got=f"{len(program.losses)} losses, {len(program.gradients)} gradients",
            mend="codegen.compile(dr.derive(net))",
        )
    learnt = [t for t in program.parameters
              if t.name in program.gradients and t.name not in program.jacobians]
    names = {t.name for t in learnt}
    kept = sorted(program.parameters, key=lambda t: t.name not in names)
    parameters = flat_layout(kept, "p")
    trained = flat_layout(learnt, "p").total
    states = flat_layout(program.role("state"), "s")
    packing = Packing(single_taps(program), storage.windows, storage.rates or RATES, device)
    packed = packing.run()
    if not device:
        batch = choose_batch(packed)
        packed = common_sums(hoist_rows(packed, batch), batch)
        packed = shared_sums(packed, batch, storage.shares)
    declared = (n for n in determined(packed.forward, _data(program)) if not n.startswith("_"))
    roots = {"forward": tuple(outputs) or tuple(declared)}
    if not forward_only:
        roots["loss"] = program.losses
        roots["gradient"] = (*program.losses, *program.gradients.values(),
                             *program.jacobians.values(), *program.updates.values())
    batch, numbers = choose_batch(packed), equation_numbers(packed)
    forms = Forms({n: t.shape for n, t in packed.tensors.items()})
    if storage.recompute is not None:
        beside = Add(parameters.total, 2*states.total, trained*(1 + len(optimizer.moments)), *(
            Mul(*t.shape)*(2 if t.dtype == "int" else 1) for t in program.given
            if t.role not in ("parameter", "state")))
        beside = beside.subs(dict.fromkeys(program.sizes, SHOWN))
        storage = replace(storage, recompute=storage.recompute - int(beside))
    entries = {
        name: compile_entry(name, packed.only(*wanted), batch, numbers, parameters, states,
                            wanted, storage, forms, device)
        for name, wanted in roots.items()
        if wanted and name in only
    }
    own = {n: t for e in entries.values() for n, t in e.program.tensors.items()}
    packed = replace(packed, tensors={**own, **packed.tensors})
    return Compiled(program, packed, optimizer, parameters, trained, states, _apart(entries),
                    label_inputs(program), half, tuple(packing.chosen.items()))


def _apart(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Kernels of one name are one kernel; where entry points fuse differently, names differ."""
    known: dict[str, Kernel] = {}

    def named(kernel: Kernel) -> Kernel:
        name, number = kernel.name, 1
        while name in known and replace(known[name], name=kernel.name) != kernel:
            number += 1
            name = f"{kernel.name}_{number}"
        known[name] = replace(kernel, name=name)
        return known[name]

    return {
        n: replace(e, phases=tuple(tuple(map(named, kernels)) for kernels in e.phases))
        for n, e in entries.items()
    }


def _data(program: Program) -> list[str]:
    labels = label_inputs(program)
    return [t.name for t in program.given if t.role != "parameter" and t.name not in labels]


def is_program(program: object) -> None:
    """Refuses what kernels are not made of; a network is near at hand."""
    if not isinstance(program, Program):
        raise DerivationError(
            "kernels are made of a derived program", expected="the result of dr.derive(net)",
            got=f"a {type(program).__name__}", mend="codegen.compile(dr.derive(net), …)")


def show(program: Program, stage: str, optimizer: Optimizer | None = None,
         target: str = "cpu") -> str:
    """The text of one stage: one of `STAGES`; "cost" is a prediction for the target "cuda".

    Raises:
        DerivationError: no such stage, or not for this target, or no derived program.
    """
    from codegen.module import render, render_cuda
    from derive.errors import nearest
    from derive.optimizers import sgd

    is_program(program)
    if stage not in STAGES:
        raise DerivationError(f"there is no stage {stage!r}", expected=", ".join(STAGES),
                              mend=f"did you mean {nearest(stage, STAGES) or STAGES[0]!r}?")
    if stage == "simplified":
        return str(program)
    if stage == "packed":
        return str(pack(single_taps(program), device=target == "cuda"))
    compiled = compile_program(program, optimizer or sgd(), device=target == "cuda")
    if stage == "text":
        return render_cuda(compiled) if target == "cuda" else render(compiled)
    if stage == "cost":
        from codegen.cuda_cost import cost_text

        if target != "cuda":
            raise DerivationError("costs are predicted for the target cuda only",
                                  mend='target="cuda" (--target cuda)')
        return cost_text(compiled)
    entry = compiled.entries["gradient"]
    if stage == "schedule":
        return str(entry.schedule)
    if stage == "memory":
        return str(entry.plan)
    from codegen.module import kernel_texts

    return "\n\n".join(kernel_texts(compiled, ("gradient",)))
