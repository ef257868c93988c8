"""Products: matrix products, convolutions and pooling, each one equation."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, Mul, S

from derive.affine import inside
from derive.errors import DataError
from derive.importing.builder import Builder, Value, operator, setting
from derive.importing.onnx_file import Node
from derive.layers.common import letters, whole_size
from derive.network import Handle
from derive.nodes import Index, MaxOver, Select, SumOver


@operator("Gemm")
def _gemm(builder: Builder, node: Node) -> Value:
    """``alpha A B + beta C``, each matrix transposed where the node says so."""
    a, b = builder.tensor(node, 0), builder.tensor(node, 1)
    turned = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    rows, inner = a.shape[::-1] if turned[0] else a.shape
    inner_b, columns = b.shape[::-1] if turned[1] else b.shape
    _same(node, a, b, inner, inner_b)
    i, j, k = letters((), "bjk", rows, columns, inner)
    product = a[(k, i) if turned[0] else (i, k)] * b[(j, k) if turned[1] else (k, j)]
    body = setting(node, "alpha", 1.0) * SumOver(product, k)
    if builder.has(node, 2):
        body += setting(node, "beta", 1.0) * builder.element(node, 2, (i, j))
    return builder.define(node, (i, j), body)


@operator("MatMul")
def _matmul(builder: Builder, node: Node) -> Value:
    """A matrix product over the last two dims; the dims before them broadcast."""
    a, b = builder.tensor(node, 0), builder.tensor(node, 1)
    inner = a.shape[-1]
    _same(node, a, b, inner, b.shape[-2 if b.tensor.rank > 1 else 0])
    batch = builder.broadcast(node, a.shape[:-2], b.shape[:-2])
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.tensor.rank > 1 else ()
    *free, k = letters((), "bhijlmnopqk", *batch, *rows, *columns, inner)
    k = Index("k" if "k" not in {i.name for i in free} else k.name, inner)
    head = free[: len(batch)]
    left = (*_aligned(a, head), *free[len(batch) : len(batch) + len(rows)], k)
    right = (*_aligned(b, head), k, *free[len(batch) + len(rows) :])
    return builder.define(node, free, SumOver(a[left] * b[right], k))


def _aligned(x: Handle, batch: Sequence[Index]) -> list[Expr]:
    sizes = x.shape[:-2]
    own = batch[len(batch) - len(sizes) :]
    return [S.Zero if size == 1 else i for i, size in zip(own, sizes)]


def _same(node: Node, a: Handle, b: Handle, left: Expr, right: Expr) -> None:
    if left != right:
        raise DataError(f"{node}: {a.name!r} and {b.name!r} cannot be multiplied",
                        got=f"shapes {tuple(a.shape)} and {tuple(b.shape)}")


# -- windows --------------------------------------------------------------------------------------
class _Windows:
    """Strides, dilations and padding of a node over the spatial dims of its input."""

    def __init__(self, node: Node, x: Handle, kernel: Sequence[int]) -> None:
        dims = len(kernel)
        self.kernel = [int(k) for k in kernel]
        self.stride = list(node.attributes.get("strides", [1] * dims))
        plain = node.op == "Conv" and "auto_pad" not in node.attributes
        self.sizes = [  # a stride of 1 needs no division, so the size may be known at run time
            i.size if plain and s == 1 and not i.size.is_Integer else whole_size(
                i.size, x, str(node))
            for i, s in zip(x.indices[2:], self.stride, strict=True)
        ]
        self.dilation = list(node.attributes.get("dilations", [1] * dims))
        pads = list(node.attributes.get("pads", [0] * (2 * dims)))
        auto = node.attributes.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = self._same(auto == "SAME_UPPER")
        elif auto not in ("NOTSET", "VALID"):
            raise DataError(f"{node}: unknown auto_pad {auto!r}")
        self.before, self.after = pads[:dims], pads[dims:]

    def _same(self, upper: bool) -> list[int]:
        before, after = [], []
        for n, k, s, d in zip(self.sizes, self.kernel, self.stride, self.dilation):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            small, large = total // 2, total - total // 2
            before.append(small if upper else large)
            after.append(large if upper else small)
        return before + after

    def counts(self, node: Node, ceil: bool = False) -> list[Expr | int]:
        out: list[Expr | int] = []
        for n, k, s, d, a, z in zip(self.sizes, self.kernel, self.stride, self.dilation,
                                    self.before, self.after):
            room = n + a + z - d * (k - 1) - 1
            if isinstance(room, Expr):
                out.append(room + 1)
                continue
            if room < 0:
                raise DataError(f"{node}: the kernel is larger than what it slides over",
                                expected=f"at most {n + a + z}", got=d * (k - 1) + 1)
            count = (-(-room // s) if ceil else room // s) + 1
            if ceil and (count - 1) * s >= n + a:  # the last window would begin in the padding
                count -= 1
            out.append(count)
        return out

    def places(self, windows: Sequence[Index], taps: Sequence[Index]) -> list[Expr]:
        return [s * p + d * r - a for p, r, s, d, a
                in zip(windows, taps, self.stride, self.dilation, self.before)]


_SPATIAL = "ocpqurst"
_SPATIAL_3 = "ocpquvrst"


@operator("Conv")
def _conv(builder: Builder, node: Node) -> Value:
    x, weight = builder.tensor(node, 0), builder.tensor(node, 1)
    dims = x.tensor.rank - 2
    windows = _Windows(node, x, [whole_size(n, weight, str(node)) for n in weight.shape[2:]])
    groups = int(node.attributes.get("group", 1))
    channels, within = int(weight.shape[0]), int(weight.shape[1])
    if x.shape[1] != groups * within or channels % groups:
        raise DataError(f"{node}: the channels of {x.name!r} do not fit {weight.name!r}",
                        expected=f"{groups * within} channels in, a multiple of {groups} out",
                        got=f"{x.shape[1]} in, {channels} out")
    counts = windows.counts(node)
    batch = x.indices[0]
    o, c, *rest = letters((batch,), _SPATIAL if dims < 3 else _SPATIAL_3, channels, within,
                          *counts, *windows.kernel)
    places, taps = rest[:dims], rest[dims:]
    source = c if groups == 1 else o if within == 1 and channels == groups else (
        sympy.floor(o / (channels // groups)) * within + c)
    element = x[(batch, source, *windows.places(places, taps))]
    body: Expr = SumOver(element * weight[(o, c, *taps)], c, *taps)
    if builder.has(node, 2):
        body += builder.tensor(node, 2)[o]
    return builder.define(node, (batch, o, *places), body)


@operator("ConvTranspose")
def _conv_transpose(builder: Builder, node: Node) -> Value:
    """``y[p]`` gathers ``X[i] K[r]`` over all i, r with ``s·i + d·r - before = p``."""
    x, weight = builder.tensor(node, 0), builder.tensor(node, 1)
    dims = x.tensor.rank - 2
    w = _Windows(node, x, [whole_size(n, weight, str(node)) for n in weight.shape[2:]])
    groups = int(node.attributes.get("group", 1))
    channels, outputs = int(weight.shape[0]), int(weight.shape[1])
    if x.shape[1] != channels or channels % groups:
        raise DataError(f"{node}: the channels of {x.name!r} do not fit {weight.name!r}",
                        expected=f"{channels} channels in, a multiple of {groups}",
                        got=f"{x.shape[1]}")
    sizes, before = _transposed_sizes(node, w, dims)
    batch, _, *spatial = x.indices
    within = channels // groups
    o, c, *rest = letters((batch,), _SPATIAL_3, outputs * groups, within, *sizes, *w.kernel)
    places, taps = rest[:dims], rest[dims:]
    where: list[Expr] = []
    guards: list[Expr] = []
    for p, r, s, a, d, i in zip(places, taps, w.stride, before, w.dilation, spatial):
        reached = p + a - d * r
        guards.append(sympy.Eq(sympy.Mod(reached, s), 0) if s > 1 else S.true)
        where.append(sympy.expand(reached / s))
        guards += inside(where[-1], i.size)
    source = c if groups == 1 else sympy.floor(o / outputs) * within + c
    target = o if groups == 1 else sympy.Mod(o, outputs)
    value = x.tensor.at(batch, source, *where) * weight.tensor.at(source, target, *taps)
    body: Expr = SumOver(Select(sympy.And(*guards), value), c, *taps)
    if builder.has(node, 2):
        body += builder.tensor(node, 2)[o]
    return builder.define(node, (batch, o, *places), body)


def _transposed_sizes(node: Node, w: _Windows, dims: int) -> tuple[list[int], list[int]]:
    """The sizes of the output and the padding in front, from the padding or from the sizes."""
    extra = list(node.attributes.get("output_padding", [0] * dims))
    reach = [(n - 1) * s + d * (k - 1) + 1 + e for n, s, d, k, e in zip(
        w.sizes, w.stride, w.dilation, w.kernel, extra)]
    auto = node.attributes.get("auto_pad", "NOTSET")
    wanted = node.attributes.get("output_shape")
    if wanted is None and auto in ("NOTSET", "VALID"):
        return [n - a - z for n, a, z in zip(reach, w.before, w.after)], list(w.before)
    sizes = [n * s for n, s in zip(w.sizes, w.stride)] if wanted is None else list(wanted)[-dims:]
    cut = [max(0, n - size) for n, size in zip(reach, sizes)]
    upper = auto == "SAME_UPPER"  # the odd one behind
    return sizes, [n // 2 if upper else n - n // 2 for n in cut]


@operator("MaxPool", "AveragePool")
def _pool(builder: Builder, node: Node) -> tuple[Value, ...]:
    x = builder.tensor(node, 0)
    dims, maximum = x.tensor.rank - 2, node.op == "MaxPool"
    windows = _Windows(node, x, node.attributes["kernel_shape"])
    ceil = bool(node.attributes.get("ceil_mode", 0))
    padded = bool(node.attributes.get("count_include_pad", 0))
    if ceil and padded:
        raise DataError(f"{node}: ceil_mode together with count_include_pad is not supported")
    head = x.indices[:2]
    rest = letters(head, "pqurst" if dims < 3 else "pquvrst", *windows.counts(node, ceil),
                   *windows.kernel)
    places, taps = rest[:dims], rest[dims:]
    where = windows.places(places, taps)
    element = x.tensor.at(*head, *where)
    within = sympy.And(*(c for e, i in zip(where, x.indices[2:]) for c in inside(e, i.size)))
    if maximum:
        body: Expr = MaxOver(Select(within, element, S.NegativeInfinity), *taps)
    else:
        cut = [r for r in taps if not padded and r in within.free_symbols]
        count = Mul(*(r.size for r in taps if r not in cut))
        if cut:
            count *= SumOver(Select(within, S.One), *cut)
        body = SumOver(Select(within, element), *taps) / count
    return (builder.define(node, (*head, *places), body),)


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    spatial = x.indices[2:]
    ones = letters(x.indices, "pqu", *[1] * len(spatial))
    if node.op == "GlobalMaxPool":
        body: Expr = MaxOver(x.tensor.access, *spatial)
    else:
        body = SumOver(x.tensor.access, *spatial) / Mul(*(i.size for i in spatial))
    return builder.define(node, (*x.indices[:2], *ones), body)
