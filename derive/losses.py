"""Losses: scalar expressions, averaged over every dim but the last (the batch)."""

from __future__ import annotations

from sympy import Expr

from derive.errors import DeclarationError
from derive.functions import softplus
from derive.network import Handle
from derive.nodes import fresh
from derive.operations import logsumexp, mean
from derive.operations import sum as sum_over_index


def _same_shape(y: Handle, t: Handle, loss: str) -> None:
    if y.shape != t.shape:
        raise DeclarationError(
            f"{loss} compares {y.name!r} with {t.name!r}, whose shapes differ",
            expected=f"{t.name}: {tuple(map(str, y.shape))}",
            got=f"{tuple(map(str, t.shape))}",
        )


def _difference(y: Handle, t: Handle, loss: str) -> Expr:
    _same_shape(y, t, loss)
    return y.tensor.access - t.tensor.at(*y.indices)


def squared_error(y: Handle, t: Handle) -> Expr:
    """½‖y - t‖² over the last dim, averaged over the others."""
    square = _difference(y, t, "squared_error") ** 2 / 2
    total = sum_over_index(square, y.indices[-1])
    return mean(total, *y.indices[:-1]) if len(y.indices) > 1 else total


def mean_squared_error(y: Handle, t: Handle) -> Expr:
    """The mean of (y - t)² over all elements."""
    return mean(_difference(y, t, "mean_squared_error") ** 2, *y.indices)


def binary_cross_entropy(z: Handle, t: Handle) -> Expr:
    """-t log σ(z) - (1-t) log(1-σ(z)) on logits z, the mean over all elements."""
    _same_shape(z, t, "binary_cross_entropy")
    logit = z.tensor.access
    return mean(softplus(logit) - t.tensor.at(*z.indices) * logit, *z.indices)


def cross_entropy(z: Handle, t: Handle) -> Expr:
    """-log softmax(z) at the class t on logits z, averaged over every dim but the last.

    ``t`` holds class labels (an integer tensor without the last dim) or probabilities (a tensor of
    the shape of z; declare it with ``distribution=True`` where they sum to 1).
    """
    *batch, k = z.indices
    logit = z.tensor.access
    total = logsumexp(logit, k)
    if t.tensor.dtype == "int":
        if t.shape != z.shape[:-1]:
            raise DeclarationError(
                f"the labels {t.name!r} do not fit the logits {z.name!r}",
                expected=f"shape {tuple(map(str, z.shape[:-1]))}: one label for each row of "
                f"{z.name}, which has shape {tuple(map(str, z.shape))}",
                got=f"{tuple(map(str, t.shape))}",
            )
        each = total - z.tensor.at(*batch, t.tensor.at(*batch))
    else:
        _same_shape(z, t, "cross_entropy")
        other = fresh(k, {i.name for i in z.indices})
        each = sum_over_index(
            t.tensor.access.xreplace(dict(zip(t.indices, z.indices, strict=True)))
            * (logsumexp(z.tensor.at(*batch, other), other) - logit), k)
    return mean(each, *batch) if batch else each
