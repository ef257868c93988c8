"""Which function stands for which of NumPy's on symbolic arrays, and what they all need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sympy import Expr

from derive.nodes import Index
from derive.verify.traced import Traced, number

TABLE: dict[Any, Callable[..., Any]] = {}


def implements(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(make: Callable[..., Any]) -> Callable[..., Any]:
        TABLE.update(dict.fromkeys(functions, make))
        return make

    return register


def array_of(value: Any) -> Traced:
    from derive.verify.trace import active

    return active().array(value)


def new_array(like: Any, shape: Any, value: Expr, kind: str = "float") -> Traced:
    from derive.verify.trace import active

    tracer = active()
    indices: list[Index] = []
    for n in (shape if isinstance(shape, tuple | list) else (shape,)):
        size = number(n)
        indices.append(tracer.fresh_index(size, "n", {i.name for i in indices}))
    return Traced(tracer, tuple(indices), value, kind)


def kind_of(dtype: Any, default: str = "float") -> str:
    if dtype is None:
        return default
    return {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(np.dtype(dtype).kind, "float")
