"""Layers without a neighbourhood: dense, embeddings, selections of elements, concatenation."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Expr, S

from derive.errors import DeclarationError
from derive.layers.common import feature_index, letters
from derive.network import Handle
from derive.nodes import Index, Select, SumOver


def dense(
    x: Handle,
    units: int | None = None,
    activation: Callable[[Expr], Expr] | None = None,
    *,
    bias: bool = True,
    dims: int = 1,
    weight: Handle | None = None,
) -> Handle:
    """``z[…, j] = sum over i of x[…, i] W[i, j] + c[j]`` and ``h = activation(z)``.

    Args:
        x: any tensor; its last ``dims`` dims hold the features.
        units: the size of the new last dim.
        activation: a function of `derive` such as ``dr.relu``; none gives z itself.
        bias: whether ``c`` is added.
        dims: how many dims are summed over: 3 for images after convolutions, without flattening.
        weight: an existing weight to share, in the shape ``(i, j)``, or ``(j, i)`` of the layer
            that it is tied to.

    Returns:
        The last tensor: h, or z without an activation. Names are W1, c1, z1, h1, W2, ….
    """
    net = x.network
    summed = x.indices[len(x.indices) - dims :]
    if weight is None:
        if units is None:
            raise DeclarationError("dense needs a size", expected="dense(x, 32) or weight=W")
        j = feature_index(x, units)
        weight = net.parameter(net.fresh_name("W"), *summed, j)
        element = weight.tensor.access
    else:
        j, element = _shared(x, summed, weight)
    body: Expr = SumOver(x.tensor.access * element, *summed)
    if bias:
        body += net.parameter(net.fresh_name("c"), j).tensor.access
    z = net.define(net.fresh_name("z"), (*x.indices[: len(x.indices) - dims], j), body)
    return z if activation is None else activation(z)


def _shared(x: Handle, summed: tuple[Index, ...], weight: Handle) -> tuple[Index, Expr]:
    """The index of the units and the element of a weight that another layer has too."""
    sizes = tuple(i.size for i in summed)
    if weight.shape[:-1] == sizes:
        j = feature_index(x, weight.shape[-1])
        return j, weight[(*summed, j)]
    if weight.shape[1:] == sizes:
        j = feature_index(x, weight.shape[0])
        return j, weight[(j, *summed)]
    raise DeclarationError(
        f"the shared weight {weight.name!r} does not fit {x.name!r}",
        expected=f"({', '.join(map(str, sizes))}, units), or units first",
        got=f"({', '.join(map(str, weight.shape))})",
    )


def embedding(tokens: Handle, count: int | None = None, features: int | None = None, *,
              weight: Handle | None = None) -> Handle:
    """``e[…, d] = E[tokens[…], d]``; a token that stands twice is counted twice in E's gradient.

    Args:
        tokens: an integer tensor with values in ``0 .. count-1``.
        count, features: the shape of the new table E.
        weight: an existing table instead.
    """
    net = tokens.network
    _need_integers(tokens, "embedding")
    if weight is None:
        if count is None or features is None:
            raise DeclarationError(
                "embedding needs the shape of its table", expected="embedding(t, 256, 32)"
            )
        d, n = letters(tokens.indices, "dn", features, count)
        weight = net.parameter(net.fresh_name("E"), n, d)
    (d,) = letters(tokens.indices, "d", weight.shape[1])
    body = weight[(tokens.tensor.access, d)]
    return net.define(net.fresh_name("e"), (*tokens.indices, d), body)


def take(x: Handle, chosen: Handle) -> Handle:
    """``y[…] = x[…, chosen[…]]``: one element of the last dim for each of the others."""
    _need_integers(chosen, "take")
    *rest, _ = x.indices
    if chosen.shape != x.shape[:-1]:
        raise DeclarationError(
            f"take needs one choice for each row of {x.name!r}",
            expected=f"shape ({', '.join(map(str, x.shape[:-1]))})",
            got=f"{chosen.name} of shape ({', '.join(map(str, chosen.shape))})",
        )
    return x.network.define(
        x.network.fresh_name("y"), tuple(rest), x[(*rest, chosen[tuple(rest)])]
    )


def one_hot(label: Expr | Handle, index: Index) -> Expr:
    """1 where ``index`` is the label, else 0: an expression, never an array."""
    at = label.tensor.access if isinstance(label, Handle) else label
    return Select(sympy.Eq(index, at), S.One)


def concatenate(a: Handle, b: Handle) -> Handle:
    """The last dims of two tensors of otherwise the same shape, one after the other."""
    if a.shape[:-1] != b.shape[:-1]:
        raise DeclarationError(
            f"{a.name!r} and {b.name!r} cannot be joined along their last dim",
            expected=f"({', '.join(map(str, a.shape[:-1]))}, any)",
            got=f"({', '.join(map(str, b.shape))})",
        )
    *rest, last = a.indices
    j = Index(last.name, a.shape[-1] + b.shape[-1])
    left = j < a.shape[-1]
    body = Select(left, a.tensor.at(*rest, j), b[(*rest, j - a.shape[-1])])
    return a.network.define(a.network.fresh_name("y"), (*rest, j), body)


def add(a: Handle, b: Handle) -> Handle:
    """The sum of two tensors of the same shape: a residual connection."""
    if a.shape != b.shape:
        raise DeclarationError(
            f"{a.name!r} and {b.name!r} cannot be added",
            expected=f"({', '.join(map(str, a.shape))})",
            got=f"({', '.join(map(str, b.shape))})",
        )
    net = a.network
    return net.define(net.fresh_name("y"), a.indices, a.tensor.access + b[a.indices])


def flatten(x: Handle, keep: int = 1) -> Handle:
    """All dims after the first ``keep`` as one, in the order of memory, a pair at a time."""
    while len(x.indices) > keep + 1:
        *head, i, j = x.indices
        n = Index(i.name, i.size * j.size)
        body = x[(*head, sympy.floor(n / j.size), sympy.Mod(n, j.size))]
        x = x.network.define(x.network.fresh_name("y"), (*head, n), body)
    return x


def unflatten(x: Handle, *sizes: int) -> Handle:
    """The last dim as several, in the order of memory."""
    *head, last = x.indices
    new = letters(head, "ijklmn", *sizes)
    if last.size != sympy.Mul(*sizes):
        raise DeclarationError(
            f"the last dim of {x.name!r} cannot be split",
            expected=f"sizes whose product is {last.size}", got=" · ".join(map(str, sizes)),
        )
    flat: Expr = S.Zero
    for index in new:
        flat = flat * index.size + index
    return x.network.define(
        x.network.fresh_name("y"), (*head, *new), x[(*head, sympy.expand(flat))]
    )


def _need_integers(t: Handle, layer: str) -> None:
    if t.tensor.dtype != "int":
        raise DeclarationError(
            f"{layer} needs an integer tensor, and {t.name!r} holds floats",
            mend=f'declare it with dtype=int: net.input("{t.name}", …, dtype=int)',
        )
