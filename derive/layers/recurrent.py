"""Recurrent layers over the last dim but one: ``x[…, t, i]`` gives ``h[…, t, j]``.

The equations name their own targets at t-1 (at t+1 for ``reverse=True``, which reads the sequence
from its end). Back-propagation through time is not written anywhere: it is the same rule as
everything else, applied to a recurrence.

With ``lengths`` the sequences of a batch end early: from its length on, a sequence keeps its last
value, so the last element is the last that counts.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Expr

from derive.errors import DeclarationError
from derive.functions import sigmoid
from derive.layers.common import feature_index, letters
from derive.layers.dense import concatenate
from derive.network import Handle
from derive.nodes import Index, Select, SumOver

Layer = Callable[..., Handle]


class _Cell:
    """The indices, projections and state tensors that every recurrent layer has."""

    def __init__(self, x: Handle, units: int, gates: int, lengths: Handle | None, reverse: bool,
                 states: int = 1) -> None:
        if x.tensor.rank < 2:
            raise DeclarationError(
                f"a recurrent layer needs a time dim, and {x.name!r} has rank {x.tensor.rank}",
                expected="(…, time, features)",
            )
        self.net, self.units = x.network, units
        *head, self.t, i = x.indices
        self.head, self.j = tuple(head), feature_index(x, units)
        (self.gate,) = letters((*x.indices, self.j), "q", gates)
        self.gated = gates > 1
        own = (self.gate, self.j) if self.gated else (self.j,)
        self.before = self.t + 1 if reverse else self.t - 1
        self.lengths = lengths
        net = self.net
        weight = net.parameter(net.fresh_name("U"), i, *own)
        bias = net.parameter(net.fresh_name("c"), *own)
        self.own, self.free = own, (*self.head, self.t, self.j)
        from_x = SumOver(x.tensor.access * weight.tensor.access, i) + bias.tensor.access
        self.input = net.define(net.fresh_name("a"), (*self.head, self.t, *own), from_x)
        self.states = [net.declare(net.fresh_name("hs"[n]), *self.free, initial=0)
                       for n in range(states)]

    def recurrent(self) -> Expr:
        """``sum over k of h[t-1, k] V[k, …]``"""
        (k,) = letters((*self.free, self.gate), "k", self.units)
        weight = self.net.parameter(self.net.fresh_name("V"), k, *self.own)
        return SumOver(self.last(0, k) * weight.tensor.access, k)

    def last(self, state: int, at: Index | None = None) -> Expr:
        """The element of a state at the step before."""
        return self.states[state][(*self.head, self.before, at or self.j)]

    def arguments(self, stem: str, body: Expr) -> list[Expr]:
        """A tensor with the arguments of all gates, and the element of it for each."""
        z = self.net.define(self.net.fresh_name(stem), (*self.head, self.t, *self.own), body)
        return self.each(z)

    def each(self, z: Handle) -> list[Expr]:
        return [z[(*self.head, self.t, n, self.j)] for n in range(int(self.gate.size))]

    def gate_value(self, stem: str, body: Expr) -> Expr:
        """A gate as a tensor of its own, so that its derivative goes through its value."""
        return self.net.define(self.net.fresh_name(stem), self.free, body).tensor.access

    def close(self, state: int, body: Expr) -> Handle:
        """The equation of a state, kept as it was beyond the end of its sequence."""
        if self.lengths is not None:
            length = self.lengths[self.head]
            body = Select(self.t < length, body, self.last(state))
        return self.net.define(self.states[state], self.free, body)


def elman(x: Handle, units: int, activation: Callable[[Expr], Expr] = sympy.tanh, *,
          lengths: Handle | None = None, reverse: bool = False) -> Handle:
    """``h[t] = tanh(x[t] U + h[t-1] V + c)`` (Elman 1990)."""
    cell = _Cell(x, units, 1, lengths, reverse)
    return cell.close(0, activation(cell.input.tensor.access + cell.recurrent()))


def gru(x: Handle, units: int, *, lengths: Handle | None = None, reverse: bool = False) -> Handle:
    """The gated recurrent unit (Cho et al. 2014) in the form of PyTorch and cuDNN: gates r, z, n
    in this order, ``n = tanh(x U + c + r (h[t-1] V + e))``, ``h = (1 - z) n + z h[t-1]``."""
    cell = _Cell(x, units, 3, lengths, reverse)
    bias = cell.net.parameter(cell.net.fresh_name("e"), *cell.own).tensor.access
    inner, outer = cell.arguments("b", cell.recurrent() + bias), cell.each(cell.input)
    r, z = (cell.gate_value("rz"[n], sigmoid(outer[n] + inner[n])) for n in range(2))
    new = cell.gate_value("n", sympy.tanh(outer[2] + r * inner[2]))
    return cell.close(0, (1 - z) * new + z * cell.last(0))


def lstm(x: Handle, units: int, *, lengths: Handle | None = None, reverse: bool = False) -> Handle:
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et
    al. 2000): gates i, f, g, o in this order; ``s = f s[t-1] + i g`` and ``h = o tanh(s)``."""
    cell = _Cell(x, units, 4, lengths, reverse, states=2)
    z = cell.arguments("z", cell.input.tensor.access + cell.recurrent())
    i, f, g, o = (cell.gate_value("ifgo"[n], (sympy.tanh if n == 2 else sigmoid)(z[n]))
                  for n in range(4))
    memory = cell.close(1, f * cell.last(1) + i * g)
    return cell.close(0, o * sympy.tanh(memory.tensor.access))


def bidirectional(layer: Layer, x: Handle, units: int, **settings: object) -> Handle:
    """A recurrent layer in both directions, their outputs one after the other."""
    forward = layer(x, units, **settings)
    backward = layer(x, units, reverse=True, **settings)
    return concatenate(forward, backward)
