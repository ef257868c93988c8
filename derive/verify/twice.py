"""The loss differentiated twice: its second derivative by a tensor in the place of its first.

Of the second derivative, which has the tensor's indices twice, its diagonal is taken: it alone has
the shape of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from derive.differentiate import the_loss
from derive.errors import ChainruleError
from derive.jacobians import hessian
from derive.program import Equation, Tensor
from derive.reference import evaluate
from derive.verify.rerun import Base

_LARGEST = 200  # elements of a tensor whose second derivative is still computed


def second_derivatives(base: Base
                       ) -> Iterator[tuple[Tensor, Equation, Iterator[np.ndarray]]]:
    """Each intermediate on the way to a gradient, the nearest to the loss first, and its adjoint;
    with that gradient at each point if the second derivative stood there."""
    for eq in base.program.only(base.gradient).equations:
        what, name = eq.tensor.origin or ("", "")
        if what == "adjoint" and name in base.program.forward.defined and eq.indices:
            try:
                values = [_diagonal(base, name, n) for n in range(len(base.points))]
            except ChainruleError:  # the gradient does not depend on it, or it is too large
                continue
            yield base.program.tensors[name], eq, base.with_values(eq.name, values)


def _diagonal(base: Base, name: str, at: int) -> np.ndarray:
    """∂²L/∂v² of each element v of a tensor at a point."""
    forward = base.program.forward
    point = {t.name: base.points[at][t.name] for t in (*forward.given, forward.tensors[name])}
    if point[name].size > _LARGEST:
        raise ChainruleError(f"{name} has too many elements")
    given = replace(forward, tensors={
        **forward.tensors, name: replace(forward.tensors[name], role="input")},
        equations=tuple(eq for eq in forward.equations if eq.name != name))
    twice = hessian(given, name, the_loss(base.program))
    needed = {t.name for t in twice.only(twice.gradients[name]).given}
    target = twice.gradients[name]
    found = evaluate(twice, {n: v for n, v in point.items() if n in needed}, (target,))[target]
    size = point[name].size
    return np.diagonal(np.reshape(found, (size, size))).reshape(point[name].shape)
