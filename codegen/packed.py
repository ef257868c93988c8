"""Tensors that are made of an equation for the sake of its kernels, and what they are called."""

from __future__ import annotations

from collections.abc import Container

from derive.program import Tensor


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor was made of an equation for the sake of its kernels."""
    return tensor.origin is not None and tensor.origin[0] == "packed"


def packed_name(stem: str, name: str, taken: Container[str]) -> str:
    """``_stem_name``, with a number behind the stem where that is taken."""
    own, found, number = name.strip("_"), f"_{stem}_{name.strip('_')}", 1
    while found in taken:
        number += 1
        found = f"_{stem}{number}_{own}"
    return found
