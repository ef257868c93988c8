"""Matrix forms are recognised exactly: each is evaluated as it stands against the index form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sympy

import derive as dr
from derive.convolutions import convolution_form
from derive.document.forms import Maker
from derive.document.tree import Words
from derive.einsum import einsum_text
from derive.matrix import matrix_form
from derive.nodes import bound_indices
from derive.points import default_sizes, random_values
from derive.reference import evaluate
from derive.text import node_text
from tests.networks import NETWORKS
from tests.notation_values import ArrayValues, number


def check_forms(program, style: dr.Style | None = None) -> dict[str, str]:
    """Evaluate every matrix form of a program; returns them as text by target."""
    values = random_values(program, 1, None)
    arrays = {**{k: np.asarray(v) for k, v in values.items()}, **evaluate(program, values)}
    sizes = default_sizes(program, None)
    orientation = Maker(program, Words("en"), "standard", style or dr.Style()).orientation
    found = {}
    for eq in program.equations:
        form = matrix_form(eq, orientation)
        if form is None:
            continue
        found[eq.name] = node_text(form.statement.right)
        ranges = {
            i.name: number(i.size, sizes) for i in [*eq.indices, *bound_indices(eq.body)]
        }
        judge = ArrayValues(program, arrays, sizes, ranges)
        judge.orientation = orientation
        at = form.statement.left.at or (None,) * eq.tensor.rank
        kept = [k for k, w in enumerate(at) if w is None]
        fixed = [i.name for k, i in enumerate(eq.indices) if k not in kept]
        for place in itertools.product(*(range(ranges[name]) for name in fixed)):
            judge.env = dict(zip(fixed, place, strict=True))
            expected = arrays[eq.name][tuple(
                slice(None) if w is None else int(judge.of(w)) for w in at)]
            if kept and orientation.turned(eq.name, kept[0]):
                expected = expected.T
            got = np.asarray(judge.of(form.statement.right))
            if expected.ndim < 2 and got.ndim == 2:
                got = got.reshape(-1 if expected.ndim else ())
            np.testing.assert_allclose(np.broadcast_to(got, expected.shape), expected,
                                       rtol=1e-10, atol=1e-12, err_msg=str(eq))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_matrix_form_has_the_value_of_its_equation(name):
    check_forms(dr.derive(NETWORKS[name]()))


@pytest.mark.parametrize("layout", ["denominator", "numerator"])
@pytest.mark.parametrize("samples", ["rows", "columns"])
@pytest.mark.parametrize("name", NETWORKS)
def test_in_every_layout_the_forms_have_their_values(name, layout, samples):
    program = dr.derive(NETWORKS[name]())
    check_forms(program, dr.Style(layout=layout, samples=samples))


def test_samples_as_columns_put_the_weights_in_front():
    program = dr.derive(NETWORKS["softmax_classifier"]())
    forms = check_forms(program, dr.Style(samples="columns"))
    assert forms["_u_h"] == "W1.T @ x + c1 @ ones(B).T"
    assert forms["_d_h"] == "W2 @ _d_z"
    assert forms["_d_W2"] == "h @ _d_z.T"
    assert check_forms(program, dr.Style(layout="numerator"))["_d_W2"] == "_d_z @ h"
    both = dr.Style(layout="numerator", samples="columns")
    assert check_forms(program, both)["_d_W2"] == "_d_z.T @ h.T"


def test_the_gradients_of_a_classifier_read_as_in_a_textbook():
    forms = check_forms(dr.derive(NETWORKS["softmax_classifier"]()))
    assert forms["_d_z"] == "(_p_u_L - onehot(t))/B"
    assert forms["_d_W2"] == "h.T @ _d_z"
    assert forms["_d_h"] == "_d_z @ W2.T"
    assert forms["_d_c1"] == "_d_u_h.T @ ones(B)"
    assert forms["_u_h"] == "x @ W1 + ones(B) @ c1.T"


def hessian_of_softmax() -> dr.Program:
    net = dr.Network("cross-entropy over softmax")
    k = dr.indices("k:5")
    z, t = net.parameter("z", k), net.input("t", dtype=int)
    net.loss(dr.logsumexp(z[k], k) - z[t.tensor.access])
    return dr.hessian(net, "z")


def test_the_hessian_of_cross_entropy_over_softmax_reads_as_in_a_textbook():
    forms = check_forms(hessian_of_softmax())
    assert forms["_d_z_2"] == "diag(_p_u_L) - _p_u_L @ _p_u_L.T"


def test_products_with_a_delta_are_diagonal():
    def forms(body) -> str:
        net = dr.Network("n")
        i, k = dr.indices("i:4 k:4")
        a, s = net.parameter("a", i), net.parameter("s")
        m = net.parameter("M", i, k)
        net.define("y", (i, k), body(sympy.Eq(i, k), a, s, m, i, k))
        return check_forms(net.program())["y"]

    assert forms(lambda same, a, s, m, i, k: dr.where(same, a[k], 0)) == "diag(a)"
    assert forms(lambda same, a, s, m, i, k: 3 * dr.where(same, 1, 0)) == "3 * diag(ones(4))"
    assert forms(lambda same, a, s, m, i, k: dr.where(same, m[i, k], 0)) == "diag(diag(M))"
    assert forms(lambda same, a, s, m, i, k: (dr.where(same, 1, 0) - a[i]) * a[k] ** 2) \
        == "diag(a * a) - a @ (a * a).T"


def test_a_transpose_has_its_reason_and_a_product_its_shapes():
    program = dr.derive(NETWORKS["softmax_classifier"]())
    form = matrix_form(program["W2"])
    assert form.shapes == ("5×B · B×2 = 5×2",)
    assert [(t.name, t.index, t.side) for t in form.transposed] == [("h", "b", "left")]
    back = matrix_form(program.defined["_d_h"])
    assert [(t.name, t.index, t.side) for t in back.transposed] == [("W2", "k", "right")]


def one(build, *dims: str):
    net = dr.Network("one")
    i, j, k = dr.indices("i:3 j:5 k:7")
    a, b, c = net.parameter("A", i, j), net.parameter("B", j, k), net.parameter("C", i, k)
    u, v = net.parameter("u", i), net.parameter("v", j)
    s = net.parameter("S", i, dr.indices("i2:3"))
    net.define("y", *build(net, a, b, c, u, v, s, i, j, k))
    return net.program()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda n, a, b, c, u, v, s, i, j, k: ((i, k), dr.sum(a[i, j] * b[j, k], j)), "A @ B"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((k, i), dr.sum(a[i, j] * b[j, k], j)),
         "B.T @ A.T"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i, j), u[i] * v[j]), "u @ v.T"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i, j), u[i] * a[i, j]), "diag(u) @ A"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i, j), a[i, j] * v[j]), "A @ diag(v)"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i,), dr.sum(a[i, j] * v[j], j)), "A @ v"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((j,), dr.sum(a[i, j] * u[i], i)), "A.T @ u"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i,), dr.sum(a[i, j], j)), "A @ ones(5)"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((), dr.sum(u[i] * a[i, j] * v[j], i, j)),
         "u.T @ A @ v"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((), dr.sum(a[i, j], i, j)),
         "ones(3).T @ A @ ones(5)"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((), dr.sum(u[i] ** 2, i)), "norm(u)**2"),
        (lambda n, a, b, c, u, v, s, i, j, k: (
            (), dr.sum(a[i, j] * dr.exp(a[i, j]), i, j)), "tr(A.T @ exp(A))"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i,), s[i, i]), "diag(S)"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i, j), a[i, j] ** 3 + v[j]),
         "power(A, 3) + ones(3) @ v.T"),
        (lambda n, a, b, c, u, v, s, i, j, k: (
            (i, k), dr.sum(a[i, j] * v[j] * b[j, k], j) * c[i, k]), "C * (A @ diag(v) @ B)"),
        (lambda n, a, b, c, u, v, s, i, j, k: ((i,), dr.max(a[i, j], j)), "rowmax(A)"),
    ],
)  # fmt: skip
def test_a_form_is_recognised_and_right(build, text):
    program = one(build)
    assert check_forms(program)["y"] == text


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_have_their_signs(stride, padding, dilation):
    net = dr.Network("convolution")
    x = net.input("x", 1, 1, 13, 12)
    y = dr.conv2d(x, 1, 3, stride=stride, padding=padding, dilation=dilation)
    net.loss(dr.mean(dr.sin(y[tuple(y.indices)]), *y.indices))
    program = dr.derive(net, ["x", "K1", "c1"])
    values = random_values(program, 1, None)
    arrays = {**{k: np.asarray(v) for k, v in values.items()}, **evaluate(program, values)}
    signs = {}
    for name in ("y1", program.gradients["x"], program.gradients["K1"]):
        eq = program.defined[name]
        form = convolution_form(eq, program.tensors)
        if form is None:  # strided and dilated, the adjoint may have whole rows of zeros
            assert name.startswith("_d_x") and stride > 1 < dilation
            continue
        ranges = {i.name: int(i.size) for i in [*eq.indices, *bound_indices(eq.body)]}
        same_slices(form, ArrayValues(program, arrays, {}, ranges), ranges, arrays[name])
        (sign,) = form.signs
        signs[name] = (sign.kernel, sign.flipped, sign.strided)
    assert signs["y1"] == ("K1", False, stride > 1)
    assert signs.get("_d_x", ("K1", True, stride > 1)) == ("K1", True, stride > 1)
    assert signs["_d_K1"] == ("_d_y1", False, dilation > 1)


def same_slices(form, judge, ranges, whole):
    """Every slice of an equation with ∗ or ⋆ has the values of the array."""
    at = form.statement.left.at
    names = [w.code for w in at if w is not None]
    for place in itertools.product(*(range(ranges[name]) for name in names)):
        judge.env = dict(zip(names, place, strict=True))
        expected = whole[tuple(slice(None) if w is None else judge.of(w) for w in at)]
        np.testing.assert_allclose(judge.of(form.statement.right), expected, atol=1e-12)


def test_what_two_convolutions_and_a_short_cut_send_back_is_a_sum_with_a_sign_for_each():
    """A residual block: its input is read by two convolutions and by an addition."""
    net = dr.Network("residual")
    h = dr.relu(dr.conv2d(net.input("x", 2, 2, 6, 6), 2, 3, padding=1))
    y = dr.add(dr.add(dr.conv2d(h, 2, 3, padding=1), dr.conv2d(h, 2, 1)), h)
    net.loss(dr.mean(dr.sin(y[tuple(y.indices)]), *y.indices))
    program = dr.derive(net)
    eq = program.defined[f"_d_{h.name}"]
    form = convolution_form(eq, program.tensors)
    assert sorted((s.kernel, s.flipped) for s in form.signs) == [("K2", True), ("K3", True)]
    values = random_values(program, 1, None)
    arrays = {**{k: np.asarray(v) for k, v in values.items()}, **evaluate(program, values)}
    ranges = {i.name: int(i.size) for i in [*eq.indices, *bound_indices(eq.body)]}
    same_slices(form, ArrayValues(program, arrays, {}, ranges), ranges, arrays[eq.name])


def test_what_is_no_convolution_is_not_called_one():
    net = dr.Network("not quite")
    i, p, u = dr.indices("i:9 p:7 u:3")
    x, k = net.input("x", i), net.parameter("K", u)
    everywhere = dr.sum(x[p + u] * k[u], u)
    half = dr.sum(dr.where(sympy.Eq(sympy.Mod(p, 2), 0), x[p + u] * k[u], 0), u)
    net.define("y", (p,), everywhere)
    net.define("z", (p,), half)
    program = net.program()
    assert convolution_form(program["y"], program.tensors) is not None
    assert convolution_form(program["z"], program.tensors) is None


def test_what_has_no_matrix_form_has_none():
    program = dr.derive(NETWORKS["strided_convolution"]())
    assert matrix_form(program["K"]) is None


def test_a_contraction_of_any_rank_has_its_einsum():
    net = dr.Network("batched")
    b, h, i, j, k = dr.indices("b:2 h:3 i:4 j:5 k:6")
    q, w = net.parameter("Q", b, h, i, j), net.parameter("K", b, h, j, k)
    net.define("s", (b, h, i, k), dr.sum(q[b, h, i, j] * w[b, h, j, k], j) / 7)
    assert einsum_text(net.program()["s"]) == '1/7 * einsum("bhij,bhjk->bhik", Q, K)'
    values = {"Q": np.random.rand(2, 3, 4, 5), "K": np.random.rand(2, 3, 5, 6)}
    expected = np.einsum("bhij,bhjk->bhik", values["Q"], values["K"]) / 7
    np.testing.assert_allclose(evaluate(net.program(), values)["s"], expected)
