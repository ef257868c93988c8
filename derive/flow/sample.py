"""Values to measure with: parameters drawn as the forecast assumes, data normal, labels uniform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from derive.flow.forecast import Forecast, evaluated_size
from derive.program import Tensor


def draw(predicted: Forecast, seed: int = 0) -> dict[str, np.ndarray]:
    """An array for every tensor that the program of a forecast is given.

    Weights are normal with the forecast's variances, inputs standard normal, integer tensors
    uniform over the dim that they index, distributions one-hot, the rest at its start.
    """
    rng = np.random.default_rng(seed)
    ranges = index_ranges(predicted)
    values = {}
    for tensor in predicted.flow.program.given:
        shape = tuple(evaluated_size(e, predicted.sizes) for e in tensor.shape)
        values[tensor.name] = _one(tensor, shape, predicted, ranges, rng)
    return values


def _one(tensor: Tensor, shape: tuple[int, ...], predicted: Forecast, ranges: Mapping[str, int],
         rng: np.random.Generator) -> np.ndarray:
    if tensor.dtype == "int":
        return rng.integers(0, ranges.get(tensor.name, 2), size=shape)
    if tensor.name in predicted.weights:
        return rng.normal(size=shape) * np.sqrt(predicted.weights[tensor.name])
    if tensor.distribution:
        return np.eye(shape[-1])[rng.integers(0, shape[-1], size=shape[:-1])]
    if tensor.role in ("input", "random"):
        return rng.normal(size=shape)
    return np.full(shape, predicted[tensor.name].mean)


def index_ranges(predicted: Forecast) -> dict[str, int]:
    """The range of each integer tensor that indexes a dim or is compared with an index."""
    from derive.nodes import Access, Index, IntegerAccess

    program, found = predicted.flow.program, {}
    for eq in program.equations:
        for node in eq.body.atoms(Access):
            sizes = program.tensors[node.name].shape
            for where, size in zip(node.where, sizes):
                if isinstance(where, IntegerAccess):
                    found[where.name] = evaluated_size(size, predicted.sizes)
        import sympy

        for node in eq.body.atoms(sympy.Eq):
            for a, b in (node.args, node.args[::-1]):
                if isinstance(a, IntegerAccess) and isinstance(b, Index):
                    found.setdefault(a.name, evaluated_size(b.size, predicted.sizes))
    return found


def measure(predicted: Forecast, names: Iterable[str], seed: int = 0) -> dict[str, float]:
    """The rms of tensors of the forecast's program, by the reference evaluator, at values drawn
    as the forecast assumes."""
    from derive.reference import evaluate

    program = predicted.flow.program
    arrays = evaluate(program, draw(predicted, seed), tuple(names), dict(predicted.sizes))
    return {name: float(np.sqrt(np.mean(np.square(a)))) for name, a in arrays.items()}
