"""Muon: momentum whose matrix is made orthogonal (Jordan et al. 2024), as equations of a matrix.

The rule has two programs: one over the elements (i, j) of a matrix, for the parameters that are
matrices, and one over a flat index for all others (biases, gains), which is another rule. A tensor
of more dims is a matrix of its first dim by the others.
"""

from __future__ import annotations

from typing import Any

from sympy import Expr, Rational, sqrt

from derive.errors import DeclarationError
from derive.naming import indices
from derive.network import Handle, Network
from derive.nodes import Select
from derive.operations import sum as total
from derive.optimizers import REGISTRY, Optimizer, adamw
from derive.program import Program
from derive.schedules import as_schedule

# of the quintic iteration, chosen for a steep slope at 0 (Jordan et al. 2024)
COEFFICIENTS = (Rational("3.4445"), Rational("-4.7750"), Rational("2.0315"))


def muon(lr: Any = 1e-3, beta: float = 0.95, eps: float = 1e-7, decay: float = 0.0,
         iterations: int = 5, matrices: str = "*", rest: Optimizer | None = None) -> Optimizer:
    """m' = β m + (1-β) g, u = (1-β) g + β m'; x₀ = u/(‖u‖+ε), then five times
    A = x xᵀ, x ← a x + (b A + c A²) x; p' = p - lr 0.2 √max(R, C) x - lr decay p, so that steps are
    as large as Adam's (Liu et al. 2025, "Muon is scalable for LLM training").

    Args:
        lr: a number or a schedule, for matrices.
        matrices: a pattern of parameters' names; those of at least two dims that fit are matrices.
        rest: the rule of all other parameters; by default AdamW with its own settings.
    """
    if not 1 <= iterations <= 10:
        raise DeclarationError("Muon iterates 1 to 10 times", got=iterations)
    rate = as_schedule(lr)
    settings = {**rate.settings, "beta": float(beta), "eps": float(eps), "decay": float(decay)}
    program = _matrix_program(settings, rate, iterations)
    other = rest or adamw()
    if other.matrix is not None:
        raise DeclarationError("the rest of Muon's parameters need a rule of their own",
                               got=other.name)
    mine = {f"matrix_{name}": value for name, value in settings.items()}
    return Optimizer("muon", other.program, {**other.settings, **mine}, other.groups, program,
                     matrices)


REGISTRY["muon"] = muon


def _matrix_program(settings: dict[str, float], rate: Any, iterations: int) -> Program:
    net = Network("muon")
    i, j, k, o = indices("i:R j:C k:R o:R")
    p, momentum = net.parameter("p", i, j), net.state("m", i, j)
    g = net.input("g", i, j)
    t = net.constant("t").tensor.access
    at = {name: net.constant(f"matrix_{name}").tensor.access for name in settings}
    lr = net.define("rate", (), rate.declare(t, at)).tensor.access
    new = net.update(momentum, at["beta"] * momentum[i, j] + (1 - at["beta"]) * g[i, j])
    ahead = net.define("ahead", (i, j), (1 - at["beta"]) * g[i, j] + at["beta"] * new[i, j])
    length = net.define("length", (), sqrt(total(ahead[i, j] ** 2, i, j)))
    x = net.define("x0", (i, j), ahead[i, j] / (length.tensor.access + at["eps"]))
    for number in range(1, iterations + 1):
        x = _iterate(net, x, number, (i, j, k, o))
    longest = Select(i.size > j.size, i.size, j.size)
    reach = net.define("reach", (), lr * sqrt(longest) / 5).tensor.access
    net.update(p, p[i, j] - reach * x[i, j] - lr * at["decay"] * p[i, j])
    return net.program()


def _iterate(net: Network, x: Handle, number: int, where: tuple[Expr, ...]) -> Handle:
    """a x + (b A + c A²) x with A = x xᵀ; each product is an equation of its own."""
    i, j, k, o = where
    a, b, c = COEFFICIENTS
    gram = net.define(f"gram{number}", (i, k), total(x[i, j] * x[k, j], j))
    square = net.define(f"square{number}", (i, k), total(gram[i, o] * gram[o, k], o))
    mixed = net.define(f"mixed{number}", (i, k), b * gram[i, k] + c * square[i, k])
    turned = net.define(f"turned{number}", (i, j), total(mixed[i, k] * x[k, j], k))
    return net.define(f"x{number}", (i, j), a * x[i, j] + turned[i, j])
