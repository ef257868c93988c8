"""Identities of the Matrix Cookbook (Petersen and Pedersen, version of November 15, 2012) as this
project derives them: each function declared in index form, its gradient printed as derived.

python docs/identities.py        writes docs/identities.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import derive as dr
from derive.document.forms import Maker
from derive.document.tree import Words
from derive.latex import box_latex
from derive.network import Network
from derive.points import random_values
from derive.symbols import Style

HERE = Path(__file__).resolve().parent
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Identity:
    """``number`` in the Cookbook, the function as it writes it, the network, what is differentiated
    by, and the Cookbook's derivative in NumPy."""

    number: int
    function: str
    declare: Callable[[Network], Any]
    right: Callable[[Arrays], np.ndarray]
    wrt: str = "X"


SIZES = "i:3 j:5 k:2 l:4 m:3 n:3 p:3 q:3 r:3 s:3 u:5 v:2"
i, j, k, l, m, n, p, q, r, s, u, v = dr.indices(SIZES)  # noqa: E741


def given(net: Network, **dims: Any) -> tuple[Any, ...]:
    """Parameters X and x, constants all others, each over its indices."""
    return tuple(net.parameter(name, *own) if name in ("X", "x", "s") else
                 net.constant(name, *own) for name, own in dims.items())


def linear(net: Network) -> Any:
    x, a = given(net, x=(i,), a=(i,))
    return dr.sum(a[i] * x[i], i)


def bilinear(net: Network) -> Any:
    X, a, b = given(net, X=(i, j), a=(i,), b=(j,))
    return dr.sum(a[i] * X[i, j] * b[j], i, j)


def bilinear_transposed(net: Network) -> Any:
    X, a, b = given(net, X=(i, j), a=(j,), b=(i,))
    return dr.sum(a[j] * X[i, j] * b[i], i, j)


def squares_between(net: Network) -> Any:
    X, b, c = given(net, X=(i, j), b=(j,), c=(j,))
    return dr.sum(b[j] * X[i, j] * X[i, u] * c[u], i, j, u)


def two_affine(net: Network) -> Any:
    x, B, b, C, D, d = given(net, x=(j,), B=(i, j), b=(i,), C=(i, k), D=(k, j), d=(k,))
    left = net.define("f", (i,), dr.sum(B[i, j] * x[j], j) + b[i])
    right = net.define("g", (k,), dr.sum(D[k, j] * x[j], j) + d[k])
    return dr.sum(left[i] * C[i, k] * right[k], i, k)


def quadratic(net: Network) -> Any:
    x, B = given(net, x=(i,), B=(i, m))
    return dr.sum(x[i] * B[i, m] * x[m], i, m)


def between_weighted(net: Network) -> Any:
    X, b, c, D = given(net, X=(i, j), b=(j,), c=(j,), D=(i, m))
    return dr.sum(b[j] * X[i, j] * D[i, m] * X[m, u] * c[u], i, j, m, u)


def affine_form(net: Network) -> Any:
    X, b, c, D = given(net, X=(i, j), b=(j,), c=(i,), D=(i, m))
    f = net.define("f", (i,), dr.sum(X[i, j] * b[j], j) + c[i])
    return dr.sum(f[i] * D[i, m] * f[m], i, m)


def least_squares(net: Network) -> Any:
    s_, x, A, W = given(net, s=(j,), y=(i,), A=(i, j), W=(i, m))
    f = net.define("f", (i,), x[i] - dr.sum(A[i, j] * s_[j], j))
    return dr.sum(f[i] * W[i, m] * f[m], i, m)


def cube_between(net: Network) -> Any:
    X, a, b = given(net, X=(i, m), a=(i,), b=(i,))
    f = net.define("f", (i,), dr.sum(X[i, m] * b[m], m))
    g = net.define("g", (i,), dr.sum(X[i, m] * f[m], m))
    return dr.sum(a[i] * X[i, m] * g[m], i, m)


def trace(net: Network) -> Any:
    (X,) = given(net, X=(i, m))
    return dr.sum(X[i, i], i)


def trace_right(net: Network) -> Any:
    X, A = given(net, X=(i, j), A=(j, i))
    return dr.sum(X[i, j] * A[j, i], i, j)


def trace_between(net: Network) -> Any:
    A, X, B = given(net, A=(k, i), X=(i, j), B=(j, k))
    return dr.sum(A[k, i] * X[i, j] * B[j, k], i, j, k)


def trace_transposed(net: Network) -> Any:
    A, X, B = given(net, A=(k, j), X=(i, j), B=(i, k))
    return dr.sum(A[k, j] * X[i, j] * B[i, k], i, j, k)


def trace_square(net: Network) -> Any:
    (X,) = given(net, X=(i, m))
    return dr.sum(X[i, m] * X[m, i], i, m)


def trace_square_right(net: Network) -> Any:
    X, B = given(net, X=(i, m), B=(i, m))
    return dr.sum(X[i, m] * X[m, n] * B[n, i], i, m, n)


def trace_form(net: Network) -> Any:
    X, B = given(net, X=(i, j), B=(i, m))
    return dr.sum(X[i, j] * B[i, m] * X[m, j], i, j, m)


def trace_outer_form(net: Network) -> Any:
    X, B = given(net, X=(i, j), B=(j, u))
    return dr.sum(X[i, j] * B[j, u] * X[i, u], i, j, u)


def trace_twice(net: Network) -> Any:
    A, X, B = given(net, A=(j, i), X=(i, j), B=(j, i))
    return dr.sum(A[j, i] * X[i, u] * B[u, m] * X[m, j], i, j, u, m)


def gram(net: Network) -> Any:
    (X,) = given(net, X=(i, j))
    return dr.sum(X[i, j] ** 2, i, j)


def trace_two_forms(net: Network) -> Any:
    X, B, C = given(net, X=(i, j), B=(i, m), C=(j, u))
    return dr.sum(X[i, j] * B[i, m] * X[m, u] * C[u, j], i, j, m, u)


def trace_of_square(net: Network) -> Any:
    A, X, B, C = given(net, A=(k, i), X=(i, j), B=(j, l), C=(k, l))
    f = net.define("f", (k, l), dr.sum(A[k, i] * X[i, j] * B[j, l], i, j) + C[k, l])
    return dr.sum(f[k, l] ** 2, k, l)


def trace_cube(net: Network) -> Any:
    (X,) = given(net, X=(i, m))
    return dr.sum(X[i, m] * X[m, n] * X[n, i], i, m, n)


def distance(net: Network) -> Any:
    x, a = given(net, x=(i,), a=(i,))
    return dr.sqrt(dr.sum((x[i] - a[i]) ** 2, i))


def cofactors(net: Network) -> tuple[Any, Any]:
    """Determinant and cofactors of a matrix of size 3, by the sign of its permutations."""
    X, e = given(net, X=(i, m), E=(i, m, n))
    det = net.define("d", (), dr.sum(e[i, m, n] * X[0, i] * X[1, m] * X[2, n], i, m, n))
    cof = net.define("K", (i, m), dr.sum(
        e[i, p, q] * e[m, r, s] * X[p, r] * X[q, s], p, q, r, s) / 2)
    return det, cof


def determinant(net: Network) -> Any:
    return cofactors(net)[0]


def log_determinant(net: Network) -> Any:
    return dr.log(dr.abs(cofactors(net)[0]))


def trace_inverse(net: Network) -> Any:
    det, cof = cofactors(net)
    A, B = given(net, A=(k, i), B=(i, k))
    return dr.sum(A[k, i] * cof[m, i] * B[m, k], i, k, m) / det


def ε() -> np.ndarray:
    """The sign of each permutation of three, 0 for what is none."""
    sign = np.zeros((3, 3, 3))
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        sign[order], sign[order[::-1]] = 1.0, -1.0
    return sign


def _inverse(w: Arrays) -> np.ndarray:
    return np.linalg.inv(w["X"])


IDENTITIES = [
    Identity(49, r"\det(\mathbf X)", determinant,
             lambda w: np.linalg.det(w["X"]) * _inverse(w).T),
    Identity(57, r"\log\lvert\det(\mathbf X)\rvert", log_determinant, lambda w: _inverse(w).T),
    Identity(63, r"\operatorname{tr}(\mathbf A \mathbf X^{-1} \mathbf B)", trace_inverse,
             lambda w: -(_inverse(w) @ w["B"] @ w["A"] @ _inverse(w)).T),
    Identity(69, r"\mathbf a^\top \mathbf x", linear, lambda w: w["a"], "x"),
    Identity(70, r"\mathbf a^\top \mathbf X \mathbf b", bilinear,
             lambda w: np.outer(w["a"], w["b"])),
    Identity(71, r"\mathbf a^\top \mathbf X^\top \mathbf b", bilinear_transposed,
             lambda w: np.outer(w["b"], w["a"])),
    Identity(77, r"\mathbf b^\top \mathbf X^\top \mathbf X \mathbf c", squares_between,
             lambda w: w["X"] @ (np.outer(w["b"], w["c"]) + np.outer(w["c"], w["b"]))),
    Identity(78, r"(\mathbf B \mathbf x + \mathbf b)^\top \mathbf C (\mathbf D \mathbf x + "
             r"\mathbf d)", two_affine,
             lambda w: w["B"].T @ w["C"] @ (w["D"] @ w["x"] + w["d"])
             + w["D"].T @ w["C"].T @ (w["B"] @ w["x"] + w["b"]), "x"),
    Identity(81, r"\mathbf x^\top \mathbf B \mathbf x", quadratic,
             lambda w: (w["B"] + w["B"].T) @ w["x"], "x"),
    Identity(82, r"\mathbf b^\top \mathbf X^\top \mathbf D \mathbf X \mathbf c", between_weighted,
             lambda w: w["D"].T @ w["X"] @ np.outer(w["b"], w["c"])
             + w["D"] @ w["X"] @ np.outer(w["c"], w["b"])),
    Identity(83, r"(\mathbf X \mathbf b + \mathbf c)^\top \mathbf D (\mathbf X \mathbf b + "
             r"\mathbf c)", affine_form,
             lambda w: np.outer((w["D"] + w["D"].T) @ (w["X"] @ w["b"] + w["c"]), w["b"])),
    Identity(84, r"(\mathbf y - \mathbf A \mathbf s)^\top \mathbf W (\mathbf y - \mathbf A "
             r"\mathbf s)", least_squares,
             lambda w: -w["A"].T @ (w["W"] + w["W"].T) @ (w["y"] - w["A"] @ w["s"]), "s"),
    Identity(91, r"\mathbf a^\top \mathbf X^3 \mathbf b", cube_between,
             lambda w: sum(np.linalg.matrix_power(w["X"].T, t) @ np.outer(w["a"], w["b"])
                           @ np.linalg.matrix_power(w["X"].T, 2 - t) for t in range(3))),
    Identity(99, r"\operatorname{tr}(\mathbf X)", trace, lambda w: np.eye(3)),
    Identity(100, r"\operatorname{tr}(\mathbf X \mathbf A)", trace_right, lambda w: w["A"].T),
    Identity(101, r"\operatorname{tr}(\mathbf A \mathbf X \mathbf B)", trace_between,
             lambda w: w["A"].T @ w["B"].T),
    Identity(102, r"\operatorname{tr}(\mathbf A \mathbf X^\top \mathbf B)", trace_transposed,
             lambda w: w["B"] @ w["A"]),
    Identity(106, r"\operatorname{tr}(\mathbf X^2)", trace_square, lambda w: 2 * w["X"].T),
    Identity(107, r"\operatorname{tr}(\mathbf X^2 \mathbf B)", trace_square_right,
             lambda w: (w["X"] @ w["B"] + w["B"] @ w["X"]).T),
    Identity(108, r"\operatorname{tr}(\mathbf X^\top \mathbf B \mathbf X)", trace_form,
             lambda w: (w["B"] + w["B"].T) @ w["X"]),
    Identity(111, r"\operatorname{tr}(\mathbf X \mathbf B \mathbf X^\top)", trace_outer_form,
             lambda w: w["X"] @ (w["B"] + w["B"].T)),
    Identity(114, r"\operatorname{tr}(\mathbf A \mathbf X \mathbf B \mathbf X)", trace_twice,
             lambda w: (w["B"] @ w["X"] @ w["A"] + w["A"] @ w["X"] @ w["B"]).T),
    Identity(115, r"\operatorname{tr}(\mathbf X^\top \mathbf X)", gram, lambda w: 2 * w["X"]),
    Identity(117, r"\operatorname{tr}(\mathbf X^\top \mathbf B \mathbf X \mathbf C)",
             trace_two_forms,
             lambda w: w["B"] @ w["X"] @ w["C"] + w["B"].T @ w["X"] @ w["C"].T),
    Identity(119, r"\operatorname{tr}((\mathbf A \mathbf X \mathbf B + \mathbf C) (\mathbf A "
             r"\mathbf X \mathbf B + \mathbf C)^\top)", trace_of_square,
             lambda w: 2 * w["A"].T @ (w["A"] @ w["X"] @ w["B"] + w["C"]) @ w["B"].T),
    Identity(121, r"\operatorname{tr}(\mathbf X^3)", trace_cube,
             lambda w: 3 * np.linalg.matrix_power(w["X"], 2).T),
    Identity(129, r"\lVert\mathbf x - \mathbf a\rVert_2", distance,
             lambda w: (w["x"] - w["a"]) / np.linalg.norm(w["x"] - w["a"]), "x"),
    Identity(132, r"\lVert\mathbf X\rVert_F^2", gram, lambda w: 2 * w["X"]),
]  # fmt: skip


def derived(identity: Identity) -> dr.Program:
    """The function's derivative, derived."""
    net = Network(f"identity {identity.number}")
    net.loss(identity.declare(net), "L")
    return dr.derive(net, wrt=[identity.wrt])


def sides(identity: Identity, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The derivative as derived and as the Cookbook has it, at a random point."""
    program = derived(identity)
    values = random_values(program, seed)
    if "E" in values:
        values["E"] = ε()
    found = program.evaluate(values)[program.gradients[identity.wrt]]
    return found, np.broadcast_to(identity.right(values), found.shape)


PAGE = """# Identities of the Matrix Cookbook, derived

What Petersen and Pedersen's *The Matrix Cookbook* (version of November 15, 2012, section 2) lists
about real matrices without a structure, as `dr.derive` derives it: each function is declared in
index form, no identity is known beforehand, and the matrix form is read off the index form of the
result. A bar marks the adjoint of what a formula names on its way. The tests compare each one at
a random point with the right-hand side that stands in the Cookbook; why they hold is the
*product of matrices* of every document's appendix: $dL = \\operatorname{tr}(\\mathbf G^\\top
d\\mathbf Z)$, and inside a trace factors may go round.

| No. | Function | Derivative, as derived |
|--:|:--|:--|
"""
AFTER = """
The language has no determinant and no inverse. For a fixed size both are sums of products: those
of 49, 57 and 63 are of size 3, with the sign $E_{imn}$ of a permutation as a constant, the inverse
as the cofactors $\\mathbf K^\\top$ over the determinant $d$; what is derived for them is long, and
equal to what the Cookbook writes with $\\mathbf X^{-1}$. For any size they would need an algorithm
(an elimination) declared as a recurrence. Left out besides: derivatives of eigenvalues (65 to 68),
complex matrices (section 4), matrices with a structure (137 to 144), Kronecker products (105), and
derivatives of a matrix by one element (73 to 75, 79, 80, 90), which here are the index forms.
"""


def row(identity: Identity) -> str:
    """A row of the page: number, function, every equation of the derivation."""
    program = derived(identity)
    maker = Maker(program, Words("en"), "summary", Style())
    function = identity.function
    if identity.number in (49, 57, 63):  # in index form, row by row
        return f"| {identity.number} | ${function}$ | as described below |"
    forward = [eq for eq in program.forward.equations
               if eq.why in ("declared", "name") and eq.name != "L"]
    made = [maker.shown(eq) for eq in forward] + [
        maker.shown(eq) for eq in program.equations
        if eq not in program.forward.equations]
    shown = ", ".join(f"${box_latex((one.matrix or one.index).box)}$" for one in made)
    return f"| {identity.number} | ${function}$ | {shown} |"


def write_identities(folder: Path) -> Path:
    """The page, as the documentation has it."""
    path = folder / "identities.md"
    path.write_text(PAGE + "\n".join(map(row, IDENTITIES)) + "\n" + AFTER, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(write_identities(HERE))
