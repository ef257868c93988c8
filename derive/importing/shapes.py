"""Operators that move elements: each is one access with another index expression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy
from sympy import Expr, Integer, Mul, S

from derive.affine import inside
from derive.errors import DataError
from derive.importing.builder import Builder, Value, number, operator
from derive.importing.folding import axes_of, slice_bounds
from derive.importing.onnx_file import Node
from derive.layers.pooling import PADDING
from derive.network import Handle
from derive.nodes import Index, Select


def at(x: Handle, where: Sequence[Expr]) -> Expr:
    """The element of a tensor of any rank; an index may range over a part of a dim."""
    return x.tensor.at(*where)


def axis_of(node: Node, rank: int, default: int = 0) -> int:
    axis = int(node.attributes.get("axis", default))
    if not -rank <= axis < rank:
        raise DataError(f"{node}: axis {axis} does not exist", expected=f"{-rank} to {rank - 1}")
    return axis % rank


@operator("Transpose")
def _transpose(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    order = node.attributes.get("perm", list(reversed(range(x.tensor.rank))))
    return builder.define(node, [x.indices[n] for n in order], x.tensor.access)


# -- the same elements under other dims -----------------------------------------------------------
@operator("Reshape")
def _reshape(builder: Builder, node: Node) -> Value:
    x, wanted = builder.tensor(node, 0), [sympy.sympify(n) for n in builder.array(node, 1)]
    if not node.attributes.get("allowzero", 0):
        wanted = [x.shape[d] if n == 0 else n for d, n in enumerate(wanted)]
    if -1 in wanted:
        rest = Mul(*(n for n in wanted if n != -1))
        wanted[wanted.index(-1)] = sympy.simplify(Mul(*x.shape) / rest)
    return reshaped(builder, node, x, wanted)


@operator("Flatten")
def _flatten(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    axis = int(node.attributes.get("axis", 1)) % (x.tensor.rank + 1)
    return reshaped(builder, node, x, [Mul(*x.shape[:axis]), Mul(*x.shape[axis:])])


@operator("Squeeze")
def _squeeze(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    axes = axes_of(node, _constants(builder, node))
    if axes is None:
        axes = [d for d, n in enumerate(x.shape) if n == 1]
    gone = {a % x.tensor.rank for a in axes}
    kept = [i for d, i in enumerate(x.indices) if d not in gone]
    where = [S.Zero if d in gone else i for d, i in enumerate(x.indices)]
    return builder.define(node, kept, at(x, where))


@operator("Unsqueeze")
def _unsqueeze(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    axes = axes_of(node, _constants(builder, node)) or []
    rank = x.tensor.rank + len(axes)
    new = {a % rank for a in axes}
    ones = list(builder.indices([S.One] * len(axes), taken=x.indices))
    own = list(x.indices)
    free = [ones.pop(0) if d in new else own.pop(0) for d in range(rank)]
    return builder.define(node, free, x.tensor.access)


@operator("Expand")
def _expand(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    wanted = [sympy.sympify(n) for n in builder.array(node, 1)]
    shape = builder.broadcast(node, x.shape, wanted)
    free = builder.indices(shape)
    return builder.define(node, free, builder.element(node, 0, free))


def _constants(builder: Builder, node: Node) -> list[np.ndarray]:
    """All inputs as arrays; the first, which is a tensor, as a place holder."""
    rest = [builder.array(node, n) for n in range(1, len(node.inputs)) if node.inputs[n]]
    return [np.zeros(0), *rest]


def reshaped(builder: Builder, node: Node, x: Handle, shape: Sequence[Expr]) -> Handle:
    """The elements of ``x`` in the order of memory under another shape.

    Dims are merged first, a pair at a time (so that quotients never nest), then split.
    """
    groups = _groups(node, x.shape, shape)
    free = list(builder.indices(shape))
    where: list[Expr] = []
    left = list(free)
    for count, (old, new) in enumerate(groups):
        flat: Expr = S.Zero
        for index in [left.pop(0) for _ in new]:
            flat = flat * index.size + (S.Zero if index.size == 1 else index)
        flat = sympy.expand(flat)
        if sum(n != 1 for n in old) <= 1:
            where += [S.Zero if n == 1 else flat for n in old]
            continue
        for step in range(len(old) - 1, 0, -1):
            x = _merged(builder, node, x, len(where), f"{count}_{step}")
        where.append(flat)
    return builder.define(node, free, at(x, where))


def _merged(builder: Builder, node: Node, x: Handle, dim: int, part: str) -> Handle:
    """Dims ``dim`` and ``dim + 1`` as one."""
    i, j = x.indices[dim : dim + 2]
    head, tail = x.indices[:dim], x.indices[dim + 2 :]
    n = Index(i.name, i.size * j.size)
    where = (S.Zero, n) if i.size == 1 else (n, S.Zero) if j.size == 1 else (
        sympy.floor(n / j.size), sympy.Mod(n, j.size))
    return builder.define(node, (*head, n, *tail), x[(*head, *where, *tail)], part=f"merged{part}")


def _groups(node: Node, old: Sequence[Expr], new: Sequence[Expr]) -> list[tuple[list, list]]:
    """Runs of old and new dims that hold the same number of elements, as short as possible."""
    groups: list[tuple[list[Expr], list[Expr]]] = []
    olds, news = list(old), list(new)
    while olds or news:
        left = [olds.pop(0)] if olds else []
        right = [news.pop(0)] if news else []
        while sympy.expand(Mul(*left) - Mul(*right)) != 0:
            smaller = _smaller(Mul(*left), Mul(*right))
            if (smaller and olds) or (olds and not news):
                left.append(olds.pop(0))
            elif news:
                right.append(news.pop(0))
            else:
                raise DataError(f"{node}: the shapes hold different numbers of elements",
                                expected=f"as many as {tuple(old)}", got=f"{tuple(new)}")
        if left or not groups:
            groups.append((left, right))
        else:  # new dims of size 1 at the end
            groups[-1][1].extend(right)
    return groups


def _smaller(a: Expr, b: Expr) -> bool:
    """Whether a is the smaller product: where symbols differ, the one with fewer of them."""
    ratio = sympy.simplify(a / b)
    if ratio.is_Rational:
        return bool(ratio < 1)
    return len(a.free_symbols) < len(b.free_symbols) or bool(
        len(a.free_symbols) == len(b.free_symbols) and ratio.is_Mul
        and sympy.denom(ratio).free_symbols)


# -- parts ----------------------------------------------------------------------------------------
@operator("Concat")
def _concat(builder: Builder, node: Node) -> Value:
    parts = [builder.tensor(node, n) for n in range(len(node.inputs))]
    axis = axis_of(node, parts[0].tensor.rank)
    for part in parts[1:]:
        rest = [[n for d, n in enumerate(p.shape) if d != axis] for p in (parts[0], part)]
        if rest[0] != rest[1]:
            raise DataError(f"{node}: {parts[0].name!r} and {part.name!r} do not fit",
                            expected=f"{parts[0].shape}", got=f"{part.shape}")
    own = parts[0].indices
    joint = Index(own[axis].name, sympy.Add(*(p.shape[axis] for p in parts)))
    free = (*own[:axis], joint, *own[axis + 1 :])
    body: Expr | None = None
    end = joint.size
    for part in reversed(parts):
        start = end - part.shape[axis]
        element = part.tensor.at(*free[:axis], joint - start, *free[axis + 1 :])
        body = element if body is None else Select(joint < end, element, body)
        end = start
    return builder.define(node, free, body if body is not None else S.Zero)


@operator("Split")
def _split(builder: Builder, node: Node) -> tuple[Value, ...]:
    x = builder.tensor(node, 0)
    axis, count = axis_of(node, x.tensor.rank), len(node.outputs)
    if "split" in node.attributes:
        widths = [sympy.sympify(n) for n in node.attributes["split"]]
    elif builder.has(node, 1):
        widths = [sympy.sympify(n) for n in builder.array(node, 1)]
    else:
        each = sympy.ceiling(x.shape[axis] / count)
        widths = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    out, start = [], S.Zero
    for number_, width in enumerate(widths):
        out.append(_cut(builder, node, x, {axis: (start, Integer(1), width)}, number_))
        start += width
    return tuple(out)


@operator("Slice")
def _slice(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    cuts = {}
    for start, end, axis, step in zip(
        *slice_bounds(node, _constants(builder, node), x.tensor.rank), strict=True
    ):
        cuts[axis] = _bounds(sympy.sympify(start), sympy.sympify(end), int(step), x.shape[axis])
    return _cut(builder, node, x, cuts)


def _bounds(start: Expr, end: Expr, step: int, size: Expr) -> tuple[Expr, Expr, Expr]:
    """First element, step and count of a slice, by NumPy's rule."""
    if size.is_Integer and start.is_Integer and end.is_Integer:
        beyond = step < 0 and int(end) < -int(size)
        chosen = range(int(size))[slice(int(start), None if beyond else int(end), step)]
        return Integer(chosen.start), Integer(step), Integer(len(chosen))
    first = size + start if start.is_negative else start
    last = size if end.is_Integer and end >= 2**31 - 1 else size + end if end.is_negative else end
    return first, Integer(step), sympy.ceiling((last - first) / step)


def _cut(builder: Builder, node: Node, x: Handle, cuts: dict[int, tuple[Expr, Expr, Expr]],
         output: int = 0) -> Handle:
    free, where = list(x.indices), list[Expr](x.indices)
    for axis, (first, step, count) in cuts.items():
        if count.is_nonpositive:
            raise DataError(f"{node}: nothing is left of dim {axis} of {x.name!r}")
        free[axis] = Index(x.indices[axis].name, count)
        where[axis] = first + step * free[axis]
    return builder.define(node, free, at(x, where), output)


@operator("Gather")
def _gather(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    axis, chosen = axis_of(node, x.tensor.rank), builder.value(node, 1)
    size = x.shape[axis]
    if not isinstance(chosen, Handle):
        chosen = chosen if chosen.dtype == object else np.where(chosen < 0, chosen + _int(size),
                                                                chosen)
        if chosen.ndim == 0:
            where = list[Expr](x.indices)
            where[axis] = sympy.sympify(chosen.item())
            rest = [i for d, i in enumerate(x.indices) if d != axis]
            return builder.define(node, rest, at(x, where))
        chosen = builder.declared(chosen, node.inputs[1])
    if chosen.tensor.dtype != "int" or chosen.tensor.role == "intermediate":
        raise DataError(f"{node}: {chosen.name!r} is computed, so it cannot choose elements",
                        expected="an input of whole numbers, or a constant")
    new = builder.indices(chosen.shape, "tuvw", x.indices)
    free = (*x.indices[:axis], *new, *x.indices[axis + 1 :])
    place = chosen[new] if new else chosen.tensor.access
    return builder.define(node, free, x[(*x.indices[:axis], place, *x.indices[axis + 1 :])])


def _int(size: Expr) -> int:
    if not size.is_Integer:
        return 0
    return int(size)


# -- padding --------------------------------------------------------------------------------------
_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad")
def _pad(builder: Builder, node: Node) -> Value:
    x, mode = builder.tensor(node, 0), node.attributes.get("mode", "constant")
    if mode != "constant" and mode not in _MODES:
        raise DataError(f"{node}: unknown mode {mode!r}", expected=", ".join(("constant", *_MODES)))
    amounts = node.attributes.get("pads")
    pads = [int(n) for n in (builder.array(node, 1) if amounts is None else amounts)]
    value = number(builder.array(node, 2).reshape(-1)[0]) if builder.has(node, 2) else number(
        np.float32(node.attributes.get("value", 0.0)))
    axes = [int(a) % x.tensor.rank for a in builder.array(node, 3)] if builder.has(node, 3) else (
        list(range(x.tensor.rank)))
    for order, axis in enumerate(axes):
        before, after = pads[order], pads[len(axes) + order]
        if before or after:
            x = _padded(builder, node, x, axis, (before, after), mode, value)
    return x


def _padded(builder: Builder, node: Node, x: Handle, axis: int, width: tuple[int, int], mode: str,
            value: Expr) -> Handle:
    old = x.indices[axis]
    new = Index(old.name, old.size + sum(width))
    place = new - width[0]
    free = (*x.indices[:axis], new, *x.indices[axis + 1 :])

    def element(where: Expr) -> Expr:
        return x.tensor.at(*free[:axis], where, *free[axis + 1 :])

    if mode == "constant":
        body = Select(sympy.And(*inside(place, old.size)), element(place), value)
    else:
        first, last = PADDING[_MODES[mode]](place, old.size)
        past = Select(place >= old.size, element(last), element(place))
        body = Select(place < 0, element(first), past)
    return builder.define(node, free, body, part=f"padded{axis}")
