"""Attention, positions and the blocks of a transformer (Vaswani et al. 2017).

A row all of whose keys are masked attends to nothing: its weights and its output are 0, and so
is its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
from sympy import Expr

from derive.errors import DeclarationError
from derive.functions import gelu
from derive.layers.common import letters, need_rank
from derive.layers.dense import add, dense
from derive.layers.noise import dropout
from derive.layers.normalisation import layer_norm
from derive.network import Handle
from derive.nodes import Select, SumOver
from derive.operations import softmax

Block = Callable[[Handle], Handle]


def attention(q: Handle, k: Handle, v: Handle, *, causal: bool = False,
              lengths: Handle | None = None) -> Handle:
    """Scaled dot-product attention, ``softmax(q kᵀ/√d) v``.

    Args:
        q: shape (…, t, d). k: shape (…, u, d). v: shape (…, u, e).
        causal: element t attends to u <= t only.
        lengths: int tensor over the first dim: keys from there on are masked (padding).
    """
    net = q.network
    *head, t, d = q.indices
    if k.shape[-1] != q.shape[-1] or v.shape[:-1] != k.shape[:-1] or k.shape[:-2] != q.shape[:-2]:
        raise DeclarationError(
            "attention: the shapes of queries, keys and values do not fit",
            expected="q (…, t, d), k (…, u, d), v (…, u, e)",
            got=", ".join(f"{h.name} ({', '.join(map(str, h.shape))})" for h in (q, k, v)),
        )
    u, e = letters((*head, t, d), "ue", k.shape[-2], v.shape[-1])
    product = SumOver(q.tensor.access * k[(*head, u, d)], d) / sympy.sqrt(d.size)
    score = net.define(net.fresh_name("s"), (*head, t, u), product)
    allowed = [sympy.Le(u, t)] if causal else []
    if lengths is not None:
        allowed.append(sympy.Lt(u, lengths[head[0]]))
    weights = softmax(score.tensor.access, u, sympy.And(*allowed))
    p = net.define(net.fresh_name("p"), (*head, t, u), weights)
    out = SumOver(p.tensor.access * v[(*head, u, e)], u)
    return net.define(net.fresh_name("o"), (*head, t, e), out)


def multi_head_attention(x: Handle, heads: int, *, context: Handle | None = None,
                         causal: bool = False, lengths: Handle | None = None,
                         rotate: bool = False, bias: bool = True) -> Handle:
    """Attention with several heads, of x to itself or to a context.

    Args:
        x: shape (batch, t, d), d a multiple of ``heads``.
        context: shape (batch, u, d'), where keys and values come from.
        rotate: turn queries and keys by their positions (`rotary`).
    """
    net = x.network
    need_rank(x, 3, "multi_head_attention", "(batch, time, features)")
    b, t, d = x.indices
    if heads < 1 or not d.size.is_Integer or int(d.size) % heads:
        raise DeclarationError(
            f"the {d.size} features of {x.name!r} do not divide among {heads} heads"
        )
    h, e = letters((b, t, d), "he", heads, int(d.size) // heads)

    def project(source: Handle, stem: str) -> Handle:
        _, step, feature = source.indices
        weight = net.parameter(net.fresh_name(f"W{stem}"), feature, h, e)
        body: Expr = SumOver(source.tensor.access * weight.tensor.access, feature)
        if bias:
            body += net.parameter(net.fresh_name(f"c{stem}"), h, e).tensor.access
        return net.define(net.fresh_name(stem), (b, h, step, e), body)

    source = context or x
    q, k, v = project(x, "q"), project(source, "k"), project(source, "v")
    if rotate:
        q, k = rotary(q), rotary(k)
    o = attention(q, k, v, causal=causal, lengths=lengths)
    weight = net.parameter(net.fresh_name("Wo"), h, e, d)
    body: Expr = SumOver(o[b, h, t, e] * weight.tensor.access, h, e)
    if bias:
        body += net.parameter(net.fresh_name("co"), d).tensor.access
    return net.define(net.fresh_name("y"), x.indices, body)


# -- positions ----------------------------------------------------------------------------------
def _angle(position: Expr, pair: Expr, size: Expr, base: int = 10000) -> Expr:
    """The angle of a pair of features at a position: slower for later pairs."""
    return position * sympy.exp(sympy.expand(-2 * pair / size) * sympy.log(base))


def sinusoidal_positions(x: Handle) -> Handle:
    """x plus sin (even features) and cos (odd features) of the position, computed, not stored."""
    *_, t, d = x.indices
    even = sympy.Eq(sympy.Mod(d, 2), 0)
    angle = _angle(t, (d - sympy.Mod(d, 2)) / 2, d.size)
    body = x.tensor.access + Select(even, sympy.sin(angle), sympy.cos(angle))
    return x.network.define(x.network.fresh_name("x"), x.indices, body)


def learned_positions(x: Handle) -> Handle:
    """x plus a learned vector for each position."""
    *_, t, d = x.indices
    table = x.network.parameter(x.network.fresh_name("P"), t, d)
    body = x.tensor.access + table.tensor.access
    return x.network.define(x.network.fresh_name("x"), x.indices, body)


def rotary(x: Handle) -> Handle:
    """Each pair of features (i, i + d/2) turned by an angle that grows with the position (Su et
    al. 2021): products of two such vectors depend on the distance of their positions only."""
    *head, t, d = x.indices
    if not d.size.is_Integer or int(d.size) % 2:
        raise DeclarationError(f"rotary positions need pairs of features, got {d.size}")
    half = int(d.size) // 2
    first = d < half
    low, high = _angle(t, d, d.size), _angle(t, d - half, d.size)
    turned = Select(
        first,
        x.tensor.access * sympy.cos(low) - x[(*head, t, d + half)] * sympy.sin(low),
        x.tensor.access * sympy.cos(high) + x[(*head, t, d - half)] * sympy.sin(high),
    )
    return x.network.define(x.network.fresh_name("r"), x.indices, turned)


# -- blocks -------------------------------------------------------------------------------------
def _residual(x: Handle, inner: Block, order: str, norm: Block) -> Handle:
    """``x + inner(norm(x))`` (pre-norm) or ``norm(x + inner(x))`` (post-norm)."""
    if order == "pre":
        return add(x, inner(norm(x)))
    if order == "post":
        return norm(add(x, inner(x)))
    raise DeclarationError(f"unknown place of the norm {order!r}", expected='"pre" or "post"')


def _chain(x: Handle, parts: Sequence[Block], order: str, norm: Block, rate: float,
           seed: Handle | None, training: bool) -> Handle:
    def dropped(part: Block) -> Block:
        if seed is None:
            return part
        return lambda y: dropout(part(y), rate, seed, training)

    for part in parts:
        x = _residual(x, dropped(part), order, norm)
    return x


def _feed_forward(hidden: int, activation: Callable[[Expr], Expr]) -> Block:
    return lambda y: dense(_applied(dense(y, hidden), activation), int(y.shape[-1]))


def _applied(z: Handle, activation: Callable[[Expr], Expr]) -> Handle:
    net = z.network
    return net.define(net.fresh_name("h"), z.indices, activation(z.tensor.access))


def encoder_block(x: Handle, heads: int, hidden: int, *, order: str = "pre",
                  activation: Callable[[Expr], Expr] = gelu, norm: Block = layer_norm,
                  causal: bool = False, lengths: Handle | None = None, rotate: bool = False,
                  rate: float = 0.0, seed: Handle | None = None, training: bool = True) -> Handle:
    """Self-attention and a network for each position, each with a residual and a norm."""
    def attend(y: Handle) -> Handle:
        return multi_head_attention(y, heads, causal=causal, lengths=lengths, rotate=rotate)

    parts = (attend, _feed_forward(hidden, activation))
    return _chain(x, parts, order, norm, rate, seed, training)


def decoder_block(x: Handle, context: Handle, heads: int, hidden: int, *, order: str = "pre",
                  activation: Callable[[Expr], Expr] = gelu, norm: Block = layer_norm,
                  lengths: Handle | None = None, rate: float = 0.0, seed: Handle | None = None,
                  training: bool = True) -> Handle:
    """Causal self-attention, attention to a context (``lengths`` masks it), and a network for
    each position, each with a residual and a norm."""
    def look(y: Handle) -> Handle:
        return multi_head_attention(y, heads, causal=True)

    def attend(y: Handle) -> Handle:
        return multi_head_attention(y, heads, context=context, lengths=lengths)

    parts = (look, attend, _feed_forward(hidden, activation))
    return _chain(x, parts, order, norm, rate, seed, training)
