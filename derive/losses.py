"""Losses: scalar expressions, averaged over every dim but the last (the batch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Add, Expr, S

from derive.errors import DeclarationError
from derive.functions import absolute, relu, softplus
from derive.naming import shape_text
from derive.network import Handle
from derive.nodes import Index, Select, exact, fresh
from derive.operations import logsumexp, mean
from derive.operations import sum as sum_over_index


def _same_shape(y: Handle, t: Handle, loss: str) -> None:
    if y.shape != t.shape:
        raise DeclarationError(
            f"{loss} compares {y.name!r} with {t.name!r}, whose shapes differ",
            expected=f"{t.name} of shape {shape_text(y.shape)}",
            got=f"shape {shape_text(t.shape)}",
            mend=f'of class labels: net.input("{t.name}", …, dtype=int)'
            if loss == "cross_entropy" and t.shape == y.shape[:-1] else None,
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


def absolute_error(y: Handle, t: Handle) -> Expr:
    """The mean of |y - t| over all elements."""
    return mean(absolute(_difference(y, t, "absolute_error")), *y.indices)


def huber(y: Handle, t: Handle, delta: float = 1.0) -> Expr:
    """r²/2 for |r| <= delta, else delta·(|r| - delta/2), with r = y - t: the mean over all
    elements (Huber 1964). Its derivative has no jump."""
    r, edge = _difference(y, t, "huber"), exact(delta)
    near = sympy.And(r <= edge, r >= -edge)
    return mean(Select(near, r**2 / 2, edge * (absolute(r) - edge / 2)), *y.indices)


def hinge(z: Handle, t: Handle) -> Expr:
    """The margin loss, the mean over all dims but the classes.

    ``t`` holds -1 or 1 in the shape of z: max(0, 1 - t z); or class labels (an integer tensor
    without the last dim): the sum over the wrong classes k of max(0, 1 + z[k] - z[t]) (Weston and
    Watkins 1999).
    """
    if t.tensor.dtype != "int":
        _same_shape(z, t, "hinge")
        return mean(relu(1 - t[z.indices] * z.tensor.access), *z.indices)
    *batch, k = z.indices
    label = _label(z, t)
    margin = relu(1 + z.tensor.access - z.tensor.at(*batch, label))
    return _average(sum_over_index(Select(sympy.Ne(k, label), margin), k), batch)


def cross_entropy(z: Handle, t: Handle, smoothing: float = 0.0) -> Expr:
    """-log softmax(z) at the class t on logits z, averaged over every dim but the last.

    ``t`` holds class labels (an integer tensor without the last dim) or probabilities (a tensor of
    the shape of z; declare it with ``distribution=True`` where they sum to 1). ``smoothing`` mixes
    that share of the uniform distribution into the target (Szegedy et al. 2016).
    """
    *batch, k = z.indices
    share = exact(smoothing)
    if t.tensor.dtype == "int":
        return _average(_log_loss(z, t, share), batch)
    _same_shape(z, t, "cross_entropy")
    target = (1 - share) * t[z.indices] + share / k.size
    return _average(sum_over_index(target * (_total(z) - z.tensor.access), k), batch)


def focal(z: Handle, t: Handle, gamma: float = 2.0) -> Expr:
    """Cross-entropy times (1 - p)^gamma with the probability p of the right class: what is
    classified well counts less (Lin et al. 2017)."""
    each = _log_loss(z, t, S.Zero)
    return _average((1 - sympy.exp(-each)) ** exact(gamma) * each, z.indices[:-1])


def kl_divergence(z: Handle, t: Handle) -> Expr:
    """Σ t (log t - log softmax(z)) over the last dim, averaged over the others; 0 log 0 = 0."""
    *batch, k = z.indices
    _same_shape(z, t, "kl_divergence")
    target = t[z.indices]
    entropy = Select(target > 0, target * sympy.log(target))
    each = entropy + target * (_total(z) - z.tensor.access)
    return _average(sum_over_index(each, k), batch)


def gaussian_kl(mean_: Handle, log_variance: Handle) -> Expr:
    """The divergence of normal distributions from the standard one, ½ Σ (eˢ + m² - 1 - s) over
    the last dim, averaged over the others."""
    *batch, k = mean_.indices
    m, s = mean_.tensor.access, log_variance[mean_.indices]
    return _average(sum_over_index((sympy.exp(s) + m**2 - 1 - s) / 2, k), batch)


def info_nce(a: Handle, c: Handle, temperature: float = 0.1) -> Expr:
    """Row b of ``a`` is to be closest to row b of ``c`` among all rows, by cosine: cross-entropy
    of the similarities divided by the temperature (van den Oord et al. 2018)."""
    _same_shape(a, c, "info_nce")
    net, (b, d) = a.network, a.indices
    left, right = _unit(a), _unit(c)
    other = fresh(b, {b.name, d.name})
    similar = sum_over_index(left.tensor.access * right[other, d], d) / exact(temperature)
    score = net.define(net.fresh_name("s"), (b, other), similar)
    return mean(logsumexp(score.tensor.access, other) - score[b, b], b)


def cosine_loss(y: Handle, t: Handle) -> Expr:
    """1 minus the cosine of the angle between y and t along the last dim, the mean over the
    others."""
    _same_shape(y, t, "cosine_loss")
    *batch, k = y.indices
    product = sum_over_index(_unit(y).tensor.access * _unit(t)[y.indices], k)
    return _average(1 - product, batch)


def l1(*tensors: Handle) -> Expr:
    """The sum of the absolute values of all elements, to be added to a loss."""
    _only_tensors(tensors, "l1")
    return Add(*(sum_over_index(absolute(t.tensor.access), *t.indices) for t in tensors))


def l2(*tensors: Handle) -> Expr:
    """Half the sum of the squares of all elements, to be added to a loss."""
    _only_tensors(tensors, "l2")
    return Add(*(sum_over_index(t.tensor.access**2, *t.indices) for t in tensors)) / 2


def elastic(*tensors: Handle, share: float = 0.5) -> Expr:
    """``share`` of `l1` and the rest of `l2` (Zou and Hastie 2005)."""
    return exact(share) * l1(*tensors) + (1 - exact(share)) * l2(*tensors)


# -- parts ----------------------------------------------------------------------------------------
def _average(each: Expr, batch: Sequence[Index]) -> Expr:
    return mean(each, *batch) if batch else each


def _only_tensors(tensors: Sequence[Any], name: str) -> None:
    for tensor in tensors:
        if not isinstance(tensor, Handle):
            raise DeclarationError(f"{name} takes tensors", expected="tensors of the network",
                                   got=repr(tensor),
                                   mend=f"a factor stands in front: 0.01*dr.{name}(W1, W2)")


def _total(z: Handle) -> Expr:
    """The logarithm of the sum of exp(z) over the last dim, which is bound anew."""
    *batch, k = z.indices
    other = fresh(k, {i.name for i in z.indices})
    return logsumexp(z.tensor.at(*batch, other), other)


def _label(z: Handle, t: Handle) -> Expr:
    """The label of a row of logits, as an index."""
    if t.shape != z.shape[:-1]:
        raise DeclarationError(
            f"the labels {t.name!r} do not fit the logits {z.name!r}",
            expected=f"shape {tuple(map(str, z.shape[:-1]))}: one label for each row of "
            f"{z.name}, which has shape {tuple(map(str, z.shape))}",
            got=f"{tuple(map(str, t.shape))}",
        )
    return t.tensor.at(*z.indices[:-1])


def _log_loss(z: Handle, t: Handle, smoothing: Expr) -> Expr:
    """``-log softmax(z)`` at the label of each row, a share of it at all classes alike."""
    *batch, k = z.indices
    label = _label(z, t)
    chosen = (1 - smoothing) * z.tensor.at(*batch, label)
    if smoothing != 0:
        chosen += smoothing * mean(z.tensor.access, k)
    return logsumexp(z.tensor.access, k) - chosen


def _unit(x: Handle) -> Handle:
    """The rows of ``x`` divided by their length."""
    net, (*_, k) = x.network, x.indices
    square = net.define(net.fresh_name("q"), x.indices[:-1], sum_over_index(x.tensor.access**2, k))
    return net.define(net.fresh_name("u"), x.indices,
                      x.tensor.access / sympy.sqrt(square.tensor.access))
