"""How a reader's matrices lie beside what is stored: settings of matrix forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sympy import Expr

from derive.nodes import Index
from derive.program import Tensor


@dataclass(frozen=True)
class Orientation:
    """How a reader's matrices lie beside what is stored.

    ``columns``: the samples of a batch, of the size ``batch``, are columns. ``numerator``: what is
    in ``gradients`` (adjoints) is transposed. ``times``: the indices of recurrences, at which
    tensors are cut into slices first.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    batch: Expr | None = None
    columns: bool = False
    numerator: bool = False
    gradients: frozenset[str] = frozenset()
    times: frozenset[Index] = frozenset()

    def turned(self, name: str, position: int) -> bool:
        """Whether the symbol of a tensor (or a slice of it) means the transpose of what is
        stored; ``position`` is the first of its dims that is left."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.dtype == "int":
            return False
        return self.across(name, position) != (self.numerator and name in self.gradients)

    def across(self, name: str, position: int) -> bool:
        """Whether the samples that a dim of a tensor counts are columns."""
        return self.columns and self.tensors[name].shape[position] == self.batch
