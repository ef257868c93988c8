"""Numbers put into the relations: Flow → `Forecast`, the rms of every signal and adjoint.

A recurrence is stepped through; its tensors then have one value per step, and outside the loop
their average counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from sympy import Expr, Symbol

from derive import functions
from derive.errors import DataError, unknown_name
from derive.flow.axes import fan_ins
from derive.flow.integrals import number
from derive.flow.propagate import propagate
from derive.flow.relations import END, START, Flow, Relation, symbol
from derive.initialisation import SCHEMES
from derive.nodes import Access
from derive.program import Group, Program, Tensor

DEFAULT_SIZE = 32
_RELU_LIKE = (
    functions.relu, functions.leaky_relu, functions.elu, functions.gelu, functions.silu,
)


@dataclass(frozen=True)
class Signal:
    """Moments of a tensor's elements: E[x], E[x²], and E[x x'] over two samples."""

    mean: float
    second: float
    cross: float

    @property
    def rms(self) -> float:
        return math.sqrt(self.second) if self.second >= 0 else math.nan

    @staticmethod
    def of(array: np.ndarray) -> Signal:
        """The moments of data whose first axis holds the samples.

        ``cross`` is the mean over pairs of different samples; 0 without a sample axis.
        """
        data = np.asarray(array, dtype=float)
        second, mean = float(np.mean(data**2)), float(np.mean(data))
        n = data.shape[0] if data.ndim else 1
        if n < 2:
            return Signal(mean, second, second)
        rows = data.reshape(n, -1)
        both = float((rows.sum(axis=0) ** 2).mean())
        return Signal(mean, second, (both - n * second) / (n * (n - 1)))


@dataclass(frozen=True)
class Forecast:
    """The predicted moments of each tensor; ``steps`` holds those of a recurrence per step."""

    flow: Flow
    signals: Mapping[str, Signal]
    steps: Mapping[str, tuple[Signal, ...]]
    sizes: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Signal:
        if name not in self.signals:
            raise unknown_name("tensor", name, self.signals)
        return self.signals[name]

    def adjoint(self, name: str) -> Signal | None:
        """The forecast of the adjoint of a tensor, where the program has one as a tensor."""
        program = self.flow.program
        found = program.gradients.get(name) or next(
            (t.name for t in program.tensors.values() if t.origin == ("adjoint", name)), None
        )
        return self.signals.get(found) if found else None

    def norm(self, name: str) -> float:
        """The Euclidean norm: rms times the square root of the number of elements."""
        tensor = self.flow.program.tensors[name]
        count = math.prod(_size(e, self.sizes) for e in tensor.shape)
        return self[name].rms * math.sqrt(count)


def forecast(
    flow: Flow | Program,
    *,
    inputs: Mapping[str, Signal | np.ndarray] | None = None,
    weights: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
    settings: Mapping[str, float] | None = None,
    known: Mapping[str, Signal] | None = None,
) -> Forecast:
    """Predict the moments of every tensor.

    Args:
        flow: of `propagate`, or a program.
        inputs: moments of the data, or the data (first axis: samples); by default independent
            with mean 0 and variance 1, and one-hot for a distribution.
        weights: variances of parameters; by default as declared, "auto" being 1/fan-in.
        sizes: of symbolic dims such as "B"; by default 32.
        settings: values of scalar constants; by default 1.
        known: moments of tensors that no rule covers ("unknown"), for instance measured ones.

    Raises:
        DeclarationError: a name that the program does not have.
    """
    flow = flow if isinstance(flow, Flow) else propagate(flow)
    _check(flow, inputs, weights, known)
    run = _Run(flow, dict(sizes or {}), dict(settings or {}))
    for relation in flow.groups[0]:
        run.given(relation, dict(inputs or {}), dict(weights or {}))
    for group, relations in zip(flow.program.groups, flow.groups[1:], strict=True):
        if group.recurrent:
            run.recurrence(group, relations)
        else:
            for relation in relations:
                run.keep(relation.name, run.signal(relation, dict(known or {})))
    drawn = {r.name: run.values[r.second] for r in flow.groups[0] if r.second == symbol(
        "v", r.name)}
    return Forecast(flow, run.signals, run.steps, run.sizes, drawn)


def _check(flow: Flow, *given: Mapping[str, object] | None) -> None:
    for mapping in given:
        for name in mapping or {}:
            if name not in flow.program.tensors:
                raise unknown_name("tensor", name, flow.program.tensors)


def _size(size: Expr, sizes: Mapping[str, int]) -> int:
    numbers = {s: sizes.get(str(s), DEFAULT_SIZE) for s in size.free_symbols}
    return int(size.subs(numbers))


def initial_variance(tensor: Tensor, fan: Expr | None, gain: int,
                     sizes: Mapping[str, int]) -> float:
    """The variance that a drawn parameter is declared with; "auto" is gain/fan-in, or 1."""
    if tensor.initial == "auto":
        return gain / _size(fan, sizes) if fan is not None else 1.0
    scheme = SCHEMES.get(str(tensor.initial))
    if scheme is not None and fan is not None:
        inside = _size(fan, sizes)
        whole = math.prod(_size(size, sizes) for size in tensor.shape)
        return scheme.variance(inside, whole // inside)
    if str(tensor.initial).startswith("uniform "):
        return float(str(tensor.initial).partition(" ")[2]) ** 2 / 3
    if isinstance(tensor.initial, str):
        raise DataError(f"{tensor.name!r} starts as {tensor.initial!r}, which is not random")
    return float(tensor.initial) ** 2


def auto_gains(program: Program) -> dict[str, int]:
    """What "auto" multiplies 1/fan-in with: 2 where a relu-like function is applied to the
    weighted sum (He et al. 2015), else 1."""
    bent = {
        access.name
        for eq in program.equations if eq.tensor.role != "gradient"
        for node in eq.body.atoms(*_RELU_LIKE) for access in node.atoms(Access)
    }
    gains: dict[str, int] = {}
    for eq in program.equations:
        if eq.tensor.role != "gradient":
            for name in eq.reads:
                gains.setdefault(name, 2 if eq.name in bent else 1)
    return gains


class _Run:
    """The values of symbols while the relations are put into numbers."""

    def __init__(self, flow: Flow, sizes: dict[str, int], settings: dict[str, float]) -> None:
        self.flow, self.settings = flow, settings
        self.fans, self.gains = fan_ins(flow.program), auto_gains(flow.program)
        self.sizes = {str(s): int(sizes.get(str(s), DEFAULT_SIZE)) for s in flow.program.sizes}
        self.values: dict[Symbol, float] = {
            s: float(self.sizes[str(s)]) for s in flow.program.sizes
        }
        self.signals: dict[str, Signal] = {}
        self.steps: dict[str, tuple[Signal, ...]] = {}

    def given(self, relation: Relation, inputs: dict, weights: dict[str, float]) -> None:
        name = relation.name
        tensor = self.flow.program.tensors[name]
        if relation.second == symbol("v", name):
            variance = weights.get(name)
            if variance is None:
                variance = initial_variance(tensor, self.fans.get(name), self.gains.get(name, 1),
                                            self.sizes)
            self.values[symbol("v", name)] = float(variance)
        elif relation.why == "a setting":
            self.values[Symbol(name, real=True)] = float(self.settings.get(name, 1.0))
        elif relation.kind == "given":
            found = inputs.get(name, self._default(tensor))
            signal = found if isinstance(found, Signal) else Signal.of(found)
            for kind, value in zip("mqr", (signal.mean, signal.second, signal.cross)):
                self.values[symbol(kind, name)] = value
        self.keep(name, self.signal(relation, {}))

    def _default(self, tensor: Tensor) -> Signal:
        if tensor.distribution and tensor.rank:
            share = 1 / _size(tensor.shape[-1], self.sizes)
            return Signal(share, share, share**2)
        return Signal(0.0, 1.0, 0.0)

    def signal(self, relation: Relation, known: dict[str, Signal]) -> Signal:
        if relation.kind == "unknown":
            return known.get(relation.name, Signal(math.nan, math.nan, math.nan))
        return Signal(*(
            number(e, self.values) for e in (relation.mean, relation.second, relation.cross)
        ))

    def keep(self, name: str, signal: Signal) -> None:
        self.signals[name] = signal
        for kind, value in zip("mqr", (signal.mean, signal.second, signal.cross)):
            self.values[symbol(kind, name)] = value

    def recurrence(self, group: Group, relations: tuple[Relation, ...]) -> None:
        """Step through a loop; then each tensor stands for the average over its steps."""
        name = group.equations[0].name
        loop = group.equations[0].indices[group.axis[name]]
        count = _size(loop.size, self.sizes)
        history: dict[str, list[Signal]] = {r.name: [] for r in relations}
        for number_of_step in range(count):
            self._carry(history, group.step)
            wanted = "first" if number_of_step == 0 else "next"
            for relation in relations:
                if relation.step == wanted:
                    signal = self.signal(relation, {})
                    history[relation.name].append(signal)
                    self.keep(relation.name, signal)
        for name, signals in history.items():
            if not signals:
                continue
            self.steps[name] = tuple(signals if group.step > 0 else signals[::-1])
            for label, signal in ((START, self.steps[name][0]), (END, self.steps[name][-1])):
                self.keep(name + label, signal)
            self.keep(name, Signal(*(
                float(np.mean([getattr(s, part) for s in signals]))
                for part in ("mean", "second", "cross")
            )))

    def _carry(self, history: dict[str, list[Signal]], direction: int) -> None:
        """Values of earlier steps under the names that the relations know them by."""
        nothing = Signal(0.0, 0.0, 0.0)
        for name, past in history.items():
            for back in range(1, 4):
                signal = past[-back] if len(past) >= back else nothing
                shift = -back if direction > 0 else back
                for kind, value in zip("mqr", (signal.mean, signal.second, signal.cross)):
                    self.values[symbol(kind, f"{name}@{shift}")] = value


def evaluated_size(size: Expr, sizes: Mapping[str, int]) -> int:
    """A size as a number, with run-time sizes as given (by default 32)."""
    return _size(size, sizes)


def adjoint_name(program: Program, name: str) -> str | None:
    """The tensor that holds the adjoint of ``name``: its own, or the one it is a copy of."""
    found = program.gradients.get(name) or next(
        (t.name for t in program.tensors.values() if t.origin == ("adjoint", name)), None
    )
    if found is not None:
        return found
    own = f"_d_{name.lstrip('_')}"
    copies = {s.target: s.after.name for s in program.steps if s.rule == "copy"}
    while own in copies:
        own = copies[own]
    return own if own in program.tensors else None


def step_growth(predicted: Forecast, group: Group, relations: tuple[Relation, ...]) -> float:
    """The factor per step of the second moments that a recurrence carries, its sources at 0."""
    run = _Run(predicted.flow, dict(predicted.sizes), {})
    for name, signal in predicted.signals.items():
        role = predicted.flow.program.tensors.get(name)
        gone = role is not None and role.role == "gradient"
        run.keep(name, Signal(0.0, 0.0, 0.0) if gone else signal)
    for name, variance in predicted.weights.items():
        run.values[symbol("v", name)] = variance
    names = [r.name for r in relations if r.step == "next"]
    history = {n: [Signal(0.0, 1.0, 0.0)] for n in names}
    growth = 1.0
    for _ in range(40):
        run._carry(history, group.step)
        new = {}
        for relation in relations:
            if relation.step == "next":
                signal = run.signal(relation, {})
                run.keep(relation.name, signal)
                new[relation.name] = signal
        top = max(s.second for s in new.values())
        if not math.isfinite(top) or top <= 0:
            return top
        growth = top
        history = {n: [Signal(0.0, s.second / top, 0.0)] for n, s in new.items()}
    return growth
