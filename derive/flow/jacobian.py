"""Jacobians layer by layer: expression, bound on the spectral norm, singular values at given
weights; for a recurrence the product over time and its growth rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import sympy
from sympy import Expr

from derive.errors import DataError, DerivationError
from derive.flow.moments import X, slope_of
from derive.flow.quadrature import compiled
from derive.flow.relations import resolve_edge
from derive.flow.remedies import Layer, forward_of, layers_of
from derive.jacobians import jacobian
from derive.local import local_derivatives
from derive.nodes import Access, Index, SumOver, accesses
from derive.program import Equation, Group, Program, Tensor, as_program
from derive.reference import evaluate


@dataclass(frozen=True)
class LayerJacobian:
    """∂``of``/∂``wrt`` of one layer.

    ``expression`` is an element, in the indices of the layer's equation; ``slope_bound`` is the
    largest |φ'|, so that the spectral norm is at most that times the largest singular value of
    the weights; ``singular_values`` are those of one sample at given weights, largest first.
    """

    of: str
    wrt: str
    expression: Expr
    slope_bound: float
    singular_values: np.ndarray | None = None

    def bound(self, weight_norm: float) -> float:
        """An upper bound on the spectral norm from that of the weight."""
        return self.slope_bound * weight_norm

    def __str__(self) -> str:
        text = f"d {self.of} / d {self.wrt} = {self.expression}, norm <= {self.slope_bound:g} |W|"
        if self.singular_values is not None and len(self.singular_values):
            s = self.singular_values
            text += f"; singular values {s[0]:.4g} … {s[-1]:.4g}, rms {np.sqrt((s**2).mean()):.4g}"
        return text


def layer_jacobians(
    net: Program, values: Mapping[str, np.ndarray] | None = None
) -> tuple[LayerJacobian, ...]:
    """The Jacobian of each layer's output with respect to the tensor that its weights multiply.

    Args:
        net: a network or program.
        values: arrays for everything that the program is given; with them the singular values
            are measured, for the first sample. The batch is cut to that sample.
    """
    program = forward_of(as_program(net))
    arrays = None if values is None else evaluate(program, values)
    found = []
    for layer in layers_of(program):
        if layer.source is None or program.tensors[layer.source.name].dtype == "int":
            continue
        singular = None
        if values is not None and arrays is not None:
            singular = _singular_values(program, layer, {**values, **arrays})
        found.append(LayerJacobian(
            layer.output or layer.name, layer.source.name, _expression(program, layer),
            _largest_slope(layer), singular,
        ))
    return tuple(found)


def _expression(program: Program, layer: Layer) -> Expr:
    """φ'(z) times the weight, as an element."""
    eq = program.defined[layer.name]
    weight = next(
        local
        for node in eq.body.atoms(SumOver)
        for access, local in local_derivatives(node.body, None) if access == layer.source
    )
    if layer.function is None:
        return weight
    slope = slope_of(layer.function) if layer.function.has(X) else sympy.Integer(1)
    own = layer.function.diff(X)
    shown = own if own.count_ops() <= slope.count_ops() else slope
    return shown.xreplace({X: eq.target}) * weight


def _largest_slope(layer: Layer) -> float:
    """sup |φ'| on a fine grid; both ends of the grid are far out."""
    if layer.function is None:
        return 1.0
    grid = np.concatenate([np.linspace(-12, 12, 24001), [-1e6, -1e3, 1e3, 1e6]])
    slope = np.abs(compiled(slope_of(layer.function), X)(grid))
    return float(np.nanmax(slope))


def cut(program: Program, of: str, at: str) -> Program:
    """The equations from ``at``, now an input, to ``of``."""
    source = replace(program.tensors[at], role="input", initial="auto")
    without = replace(
        program, tensors={**program.tensors, at: source}, losses=(), updates={}, gradients={},
        equations=tuple(eq for eq in program.equations if eq.name != at),
    )
    return without.only(of)


def _singular_values(program: Program, layer: Layer, arrays: Mapping[str, np.ndarray]
                     ) -> np.ndarray | None:
    assert layer.source is not None
    of, at = layer.output or layer.name, layer.source.name
    derived = jacobian(cut(program, of, at), of, at)
    one = {t.name: _first_sample(t, arrays[t.name]) for t in derived.given}
    full = _only(derived, at, one)
    rows = math.prod(full.shape[: program.tensors[of].rank])
    return np.linalg.svd(full.reshape(rows, -1), compute_uv=False)


def _only(program: Program, wrt: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The Jacobian's array, every run-time size being 1."""
    name = program.gradients[wrt]
    needed = program.only(name)
    here = {t.name: values[t.name] for t in needed.given}
    return evaluate(needed, here, [name], {str(s): 1 for s in needed.sizes})[name]


def _first_sample(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """An array with every axis of symbolic size (a batch) cut to one."""
    array = np.asarray(array)
    for axis, size in enumerate(tensor.shape):
        if size.is_Symbol:
            array = array[(slice(None),) * axis + (slice(0, 1),)]
    return array


# -- recurrences --------------------------------------------------------------------------------
@dataclass(frozen=True)
class StepProduct:
    """The Jacobian of a recurrence's state over all its steps, for one sample.

    ``norms[t]`` is the Frobenius norm of J_t ⋯ J_1 divided by √n: the factor by which a random
    perturbation (or adjoint) grows; ``rate`` its mean logarithm per step, so that exp(rate) is
    the growth per step; ``spectral[t]`` the largest singular value of the product.
    """

    states: tuple[str, ...]
    norms: np.ndarray
    spectral: np.ndarray

    @property
    def rate(self) -> float:
        return float(np.log(self.norms[-1]) / len(self.norms))

    @property
    def growth(self) -> float:
        return math.exp(self.rate)


def step_products(net: Program, values: Mapping[str, np.ndarray]) -> tuple[StepProduct, ...]:
    """For each forward recurrence, the product of its Jacobians over time, for the first sample.

    Raises:
        DataError: a value does not fit.
    """
    program = forward_of(as_program(net))
    arrays = {**values, **evaluate(program, values)}
    return tuple(
        _product(program, group, arrays) for group in program.groups
        if group.recurrent and group.equations[0].tensor.role != "gradient"
    )


def _product(program: Program, group: Group, arrays: Mapping[str, np.ndarray]) -> StepProduct:
    step, states, sliced = one_step(program, group)
    blocks = {
        (a, b): _block(step, a, b) for a in states for b in states
    }
    first = group.equations[0]
    steps = arrays[first.name].shape[group.axis[first.name]]
    order = list(range(1, steps)) if group.step > 0 else list(range(steps - 2, -1, -1))
    product: np.ndarray | None = None
    norms, spectral = [], []
    for t in order:
        now = {}
        for name, (source, axis, shift) in sliced.items():
            now[name] = np.take(arrays[source], t + shift, axis=axis) if axis is not None \
                else np.asarray(arrays[source])
        matrix = np.block([[_matrix(step, blocks[a, b], now, a, b) for b in states]
                           for a in states])
        product = matrix if product is None else matrix @ product
        norms.append(float(np.linalg.norm(product) / math.sqrt(product.shape[0])))
        spectral.append(float(np.linalg.norm(product, 2)))
    if product is None:
        raise DataError("a recurrence of one step has no product of Jacobians")
    return StepProduct(states, np.array(norms), np.array(spectral))


Sliced = dict[str, tuple[str, int | None, int]]


def one_step(program: Program, group: Group) -> tuple[Program, tuple[str, ...], Sliced]:
    """One step of a recurrence as a program of its own: the loop index is gone, the state before
    is an input ``<state>_before``.

    Returns:
        The program, the names of the states, and for each given tensor the one it is a slice of,
        along which axis and how far from the step.
    """
    tensors: dict[str, Tensor] = {}
    sliced: Sliced = {}
    states: list[str] = []
    equations = []
    for eq in group.equations:
        axis = group.axis[eq.name]
        loop = eq.indices[axis]
        body = resolve_edge(eq.body, loop, False, group.step)
        mapping = {}
        for access in accesses(body):
            mapping[access] = _at_step(program, group, access, loop, tensors, sliced, states)
        indices = tuple(i for i in eq.indices if i != loop)
        tensors[eq.name] = replace(eq.tensor, indices=_drop(eq.tensor, axis))
        equations.append(Equation(tensors[eq.name], indices, body.xreplace(mapping)))
    made = Program(f"one step of {program.name}", tensors, tuple(equations))
    return made, tuple(states), sliced


def _drop(tensor: Tensor, axis: int) -> tuple[Index, ...]:
    return tensor.indices[:axis] + tensor.indices[axis + 1:]


def _at_step(program: Program, group: Group, access: Access, loop: Index,
             tensors: dict[str, Tensor], sliced: Sliced, states: list[str]) -> Access:
    tensor = program.tensors[access.name]
    axes = [n for n, w in enumerate(access.where) if loop in w.free_symbols]
    if not axes:
        if access.name not in group.axis:
            tensors.setdefault(access.name, tensor)
            sliced[access.name] = (access.name, None, 0)
        return access
    axis = axes[0]
    shift = access.where[axis] - loop
    if not shift.is_Integer:
        raise DerivationError(f"{access} does not follow the loop over {loop}")
    rest = access.where[:axis] + access.where[axis + 1:]
    if access.name in group.axis and shift == 0:
        return tensor.at(*rest)
    name = f"{access.name}_before" if access.name in group.axis else access.name
    if access.name in group.axis and access.name not in states:
        states.append(access.name)
    tensors[name] = replace(tensor, name=name, indices=_drop(tensor, axis), role="input",
                            origin=None)
    sliced[name] = (access.name, axis, int(shift))
    return tensors[name].at(*rest)


def _block(step: Program, of: str, wrt: str) -> Program | None:
    """The program of one block of the state's Jacobian; None where it is zero."""
    before = f"{wrt}_before"
    part = step.only(of)
    if before not in part.tensors:
        return None
    return jacobian(part, of, before)


def _matrix(step: Program, block: Program | None, now: Mapping[str, np.ndarray], of: str,
            wrt: str) -> np.ndarray:
    before = step.tensors[f"{wrt}_before"]
    if block is None:
        sizes = [
            math.prod(_first_sample(t, np.empty([int(s) if s.is_Integer else 1
                                                 for s in t.shape])).shape)
            for t in (step.tensors[of], before)
        ]
        return np.zeros(sizes)
    one = {t.name: _first_sample(t, now[t.name]) for t in block.given}
    full = _only(block, before.name, one)
    rows = math.prod(full.shape[: step.tensors[of].rank])
    return full.reshape(rows, -1)
