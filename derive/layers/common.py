"""What the layers share: letters for new indices, sizes of windows, checks of arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sympy import Expr, Integer

from derive.errors import DeclarationError
from derive.naming import as_size
from derive.network import Handle
from derive.nodes import Index

_FEATURES = "ijklmnopqrsuvw"
_SPARE = "abcdefghijklmnopqrstuvwxyz"


def feature_index(x: Handle, size: Expr | int) -> Index:
    """An index for a new feature dim: the letter after the one of x's last dim."""
    taken = {i.name for i in x.indices}
    last = x.indices[-1].name
    start = _FEATURES.find(last) + 1
    order = _FEATURES[start:] + _FEATURES[:start]
    return Index(next(c for c in order if c not in taken), as_size(size))


def letters(taken: Iterable[Index], prefer: str, *sizes: Expr | int) -> tuple[Index, ...]:
    """New indices of these sizes, named by the letters of ``prefer`` where they are free."""
    used = {i.name for i in taken}
    free = [c for c in dict.fromkeys(prefer + _SPARE) if c not in used]
    return tuple(Index(c, as_size(size)) for c, size in zip(free, sizes, strict=False))


def per_dim(value: int | Sequence[int], dims: int, what: str) -> tuple[int, ...]:
    """A setting for each spatial dim: one number stands for all."""
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims or not all(isinstance(v, int) for v in values):
        raise DeclarationError(
            f"{what} does not fit {dims} spatial dims",
            expected=f"a whole number, or {dims} of them", got=repr(value),
        )
    return values


def need_rank(x: Handle, rank: int, layer: str, dims: str) -> None:
    """Refuse a tensor of another rank, saying what the dims are to be."""
    if x.tensor.rank != rank:
        raise DeclarationError(
            f"{layer} needs a tensor of {rank} dims, and {x.name!r} has {x.tensor.rank}",
            expected=dims, got=f"{x.name} of shape ({', '.join(map(str, x.shape))})",
        )


def whole_size(size: Expr, x: Handle, layer: str) -> int:
    """A size as a number: the sizes of windows over it are computed from it."""
    if not isinstance(size, Integer):
        raise DeclarationError(
            f"{layer} needs to know every spatial size of {x.name!r}",
            expected="whole numbers", got=f"the size {size}",
            mend="declare the dim with a number",
        )
    return int(size)


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int,
                 layer: str) -> int:
    """How many windows fit: floor((n + 2p - d(k-1) - 1)/s) + 1."""
    if kernel < 1 or stride < 1 or dilation < 1 or padding < 0:
        raise DeclarationError(
            f"{layer}: kernel, stride and dilation are at least 1, padding at least 0",
            got=f"kernel {kernel}, stride {stride}, padding {padding}, dilation {dilation}",
        )
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise DeclarationError(
            f"{layer}: the kernel is larger than what it slides over",
            expected=f"at most {size + 2 * padding} (size {size}, padding {padding})",
            got=f"{dilation * (kernel - 1) + 1} (kernel {kernel}, dilation {dilation})",
            mend="use more padding or a smaller kernel",
        )
    return room // stride + 1
