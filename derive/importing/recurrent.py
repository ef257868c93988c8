"""LSTM, GRU and RNN of ONNX: time first, weights of all gates in one array, one or two directions.

``Y[t, d, b, j]``; gates stand in the order i, o, f, c (LSTM) and z, r, h (GRU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Expr, S

from derive.errors import DataError
from derive.functions import relu, sigmoid
from derive.importing.builder import Builder, Value, operator, plain_name
from derive.importing.onnx_file import Node
from derive.network import Handle
from derive.nodes import Index, Select, SumOver

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@dataclass(frozen=True)
class _Direction:
    """One direction of a recurrent node: its tensors and indices."""

    builder: Builder
    node: Node
    number: int
    reverse: bool
    t: Index
    b: Index
    j: Index
    tag: str

    @property
    def free(self) -> tuple[Index, Index, Index]:
        return self.t, self.b, self.j

    @property
    def before(self) -> Expr:
        return self.t + 1 if self.reverse else self.t - 1

    def projection(self) -> Sequence[Expr]:
        """``x[t] W`` for each gate, without bias."""
        x, weight = self.builder.tensor(self.node, 0), self.builder.tensor(self.node, 1)
        gates, units = _GATES[self.node.op], self.j.size
        g, i = Index("g", gates), Index("i", x.shape[2])
        product = x[self.t, self.b, i] * weight.tensor.at(self.number, g * units + self.j, i)
        a = self.builder.define(self.node, (self.t, self.b, g, self.j), SumOver(product, i),
                                part=f"input{self.tag}")
        return [a[self.t, self.b, n, self.j] for n in range(gates)]

    def recurrent(self, gate: int, value: Callable[[Index], Expr]) -> Expr:
        weight = self.builder.tensor(self.node, 2)
        k = Index("k", self.j.size)
        return SumOver(value(k) * weight.tensor.at(self.number, gate * self.j.size + self.j, k), k)

    def bias(self, gate: int, second: bool = False) -> Expr:
        """A bias of the input (first half) or of the recurrence (second half)."""
        if not self.builder.has(self.node, 3):
            return S.Zero
        half = _GATES[self.node.op] if second else 0
        bias = self.builder.tensor(self.node, 3)
        return bias.tensor.at(self.number, (half + gate) * self.j.size + self.j)

    def biases(self, gate: int) -> Expr:
        return self.bias(gate) + self.bias(gate, True)

    def state(self, name: str, initial: int) -> Handle:
        first: Handle | int = 0
        if self.builder.has(self.node, initial):
            given = self.builder.tensor(self.node, initial)
            first = self.builder.define(
                self.node, (self.b, self.j), given[S(self.number), self.b, self.j],
                part=f"{name}0{self.tag}")
        stem = plain_name(self.node.outputs[0] or self.node.name)
        own = self.builder.reserve(f"{stem}_{name}{self.tag}")
        return self.builder.net.declare(own, *self.free, initial=first)

    def named(self, name: str, body: Expr) -> Expr:
        return self.builder.define(self.node, self.free, body,
                                   part=f"{name}{self.tag}").tensor.access

    def within(self) -> Expr:
        """Whether a step lies inside its sequence, where the node has their lengths."""
        if not self.builder.has(self.node, 4):
            return S.true
        return self.t < self.builder.tensor(self.node, 4)[self.b]

    def close(self, state: Handle, body: Expr) -> Handle:
        """The equation of a state. Beyond the end of a sequence it is kept: from the end on its
        last value, or (from behind) its first."""
        kept = state[self.before, self.b, self.j]
        return self.builder.net.define(state, self.free, Select(self.within(), body, kept))

    def shown(self, state: Handle) -> Expr:
        """The state as the output has it: zero beyond the end of a sequence."""
        return Select(self.within(), state.tensor.access)


def _lstm(d: _Direction) -> tuple[Handle, ...]:
    x, h, c = d.projection(), d.state("h", 5), d.state("c", 6)

    def argument(gate: int) -> Expr:
        return x[gate] + d.recurrent(gate, lambda k: h[d.before, d.b, k]) + d.biases(gate)

    i, o, f = (d.named("iof"[n], sigmoid(argument(n))) for n in range(3))
    g = d.named("g", sympy.tanh(argument(3)))
    memory = d.close(c, f * c[d.before, d.b, d.j] + i * g)
    return d.close(h, o * sympy.tanh(memory.tensor.access)), memory


def _gru(d: _Direction) -> tuple[Handle, ...]:
    x, h = d.projection(), d.state("h", 5)
    linear = bool(d.node.attributes.get("linear_before_reset", 0))

    def last(k: Index) -> Expr:
        return h[d.before, d.b, k]

    z, r = (d.named("zr"[n], sigmoid(x[n] + d.recurrent(n, last) + d.biases(n)))
            for n in range(2))
    if linear:
        inner = r * (d.recurrent(2, last) + d.bias(2, True))
    else:
        reset = d.builder.define(d.node, d.free, r * last(d.j), part=f"reset{d.tag}")
        inner = d.recurrent(2, lambda k: reset[d.t, d.b, k]) + d.bias(2, True)
    new = d.named("n", sympy.tanh(x[2] + inner + d.bias(2)))
    return (d.close(h, (1 - z) * new + z * last(d.j)),)


def _rnn(d: _Direction) -> tuple[Handle, ...]:
    x, h = d.projection(), d.state("h", 5)
    names = d.node.attributes.get("activations", ["Tanh"])
    squash = {"Tanh": sympy.tanh, "Relu": relu}[names[min(d.number, len(names) - 1)]]
    inner = d.recurrent(0, lambda k: h[d.before, d.b, k])
    return (d.close(h, squash(x[0] + inner + d.biases(0))),)


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


@operator("LSTM", "GRU", "RNN")
def _recurrent(builder: Builder, node: Node) -> tuple[Value | None, ...]:
    x, weight = builder.tensor(node, 0), builder.tensor(node, 2)
    _refuse_settings(builder, node)
    t, b, j = (Index(c, n) for c, n in zip("tbj", (*x.shape[:2], weight.shape[2])))
    direction = node.attributes.get("direction", "forward")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    tags = [""] if len(ways) == 1 else ["_forward", "_backward"]
    each = [_Direction(builder, node, n, reverse, t, b, j, tags[n])
            for n, reverse in enumerate(ways)]
    states = [_CELLS[node.op](direction) for direction in each]
    d = Index("d", len(ways))

    def stacked(values: Sequence[Expr]) -> Expr:
        return values[0] if len(values) == 1 else Select(sympy.Eq(d, 0), *values)

    wanted = [n < len(node.outputs) and node.outputs[n] != "" for n in range(3)]
    outputs = [way.shown(s[0]) for way, s in zip(each, states)]
    y = builder.define(node, (t, d, b, j), stacked(outputs), 0) if wanted[0] else None
    ends = [S.Zero if reverse else t.size - 1 for reverse in ways]
    last = [
        builder.define(node, (d, b, j), stacked(
            [s[state][end, b, j] for s, end in zip(states, ends)]), 1 + state)
        if wanted[1 + state] else None
        for state in range(len(states[0]))
    ]
    return (y, *last)


def _refuse_settings(builder: Builder, node: Node) -> None:
    """What changes the equations and is not written here."""
    names = node.attributes.get("activations")
    allowed = [_DEFAULT[node.op]] + ([["Relu"]] if node.op == "RNN" else [])
    wrong = {
        "peepholes": builder.has(node, 7),
        "clip": "clip" in node.attributes,
        "layout 1": node.attributes.get("layout", 0) != 0,
        "input_forget": node.attributes.get("input_forget", 0) != 0,
        f"activations {names}": names is not None
        and names not in [a * n for a in allowed for n in (1, 2)],
    }
    for what, present in wrong.items():
        if present:
            raise DataError(f"{node}: {what} is not supported",
                            expected="the operator's defaults, time first")
