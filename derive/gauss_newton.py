"""Gauss-Newton steps, damped (Levenberg 1944; Marquardt 1963; Martens 2010 without the matrix).

The rule's equation is p' = p - lr g, where g stands for the solution of (G + λ I) g = ∇L with the
Gauss-Newton matrix G of the batch. Who runs the rule solves it, by conjugate gradients on the
products G v that `derive.jacobians.gauss_newton_vector` derives (`codegen.gauss_newton` does),
takes back a step that makes the loss of its batch larger, and adapts λ to how far the loss followed
its quadratic model. It is for small networks with all rows, or many of them, in a batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sympy import Expr

from derive.errors import DeclarationError, unknown_name
from derive.optimizers import REGISTRY, Optimizer, Rule, declared

_SETTINGS = ("lr", "damping", "iterations", "average")


def gauss_newton(lr: Any = 1.0, damping: float = 1e-2, iterations: int = 50,
                 average: float | str | None = None, **other: Any) -> Optimizer:
    """p' = p - lr (G + λ I)⁻¹ ∇L.

    Args:
        damping: λ at the start; it is adapted.
        iterations: of conjugate gradients, at most, for each step.
        average: of the weights, as every rule has it (`derive.optimizers`).

    Raises:
        DeclarationError: a setting that is not known, or one out of its range. Clipping and decay
            are not: the step is the minimum of a model of the loss, and a decay belongs into it.
    """
    if not (isinstance(damping, int | float) and damping > 0):
        raise DeclarationError("the damping of Gauss-Newton is larger than 0", got=repr(damping))
    if not (isinstance(iterations, int) and iterations >= 1):
        raise DeclarationError("conjugate gradients take at least one iteration",
                               got=repr(iterations))

    def gauss_newton(r: Rule, lr: Any, damping: Any, iterations: Any) -> Expr:
        return r.p - lr * r.g

    if other:
        raise unknown_name("setting of gauss_newton", next(iter(other)), _SETTINGS)
    made = declared(gauss_newton, {"lr": lr, "damping": damping, "iterations": iterations},
                    {"average": average}, _SETTINGS)
    return replace(made, curvature=True)


REGISTRY["gauss_newton"] = gauss_newton
