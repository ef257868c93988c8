"""L-BFGS (Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4) as equations over the flat index.

A step multiplies the gradient by the inverse Hessian that the last few steps s and changes of the
gradient y tell of. Their scalar products are sums over all parameters, as a norm is. What a pair
without curvature (sᵀy too small) would tell is left out, so the direction is one of descent.

There is no line search: a step is one gradient, as it is in torch.optim.LBFGS by default. It is
for small networks with all rows in one batch; minibatches change y by more than the step does.
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Integer, Rational

from derive.errors import DeclarationError
from derive.functions import absolute
from derive.nodes import Select
from derive.operations import sum as total
from derive.optimizers import OPTIONS, REGISTRY, Optimizer, Rule, declared

CURVATURE = Rational(1, 10**10)  # of a pair that is kept: the least sᵀy


def lbfgs(lr: Any = 1.0, history: int = 5, **options: Any) -> Optimizer:
    """q = -g; for each pair from the newest: a = sᵀq/sᵀy, q ← q - a y; r = q sᵀy/yᵀy of the
    newest; for each from the oldest: r ← r + (a - yᵀr/sᵀy) s; p' = p + lr r. The first step is
    -lr g min(1, 1/‖g‖₁).

    Args:
        lr: a number or a schedule.
        history: how many pairs are kept, each of two moments.
        options: those that every rule has (`derive.optimizers`).

    Raises:
        DeclarationError: a history of no pairs or too many, or a setting that is not known.
    """
    if not isinstance(history, int) or isinstance(history, bool) or not 1 <= history <= 20:
        raise DeclarationError("the history of L-BFGS is of 1 to 20 pairs", got=repr(history))

    def lbfgs(r: Rule, lr: Any) -> Expr:
        return _step(r, lr, history)

    return declared(lbfgs, {"lr": lr}, options, ("lr", "history", *OPTIONS))


REGISTRY["lbfgs"] = lbfgs


def _step(r: Rule, lr: Expr, history: int) -> Expr:
    def product(name: str, one: Expr, other: Expr) -> Expr:
        return r.define(name, total(one * other, r.n), ())

    change = r.define("change", r.g - r.state("before"))
    kept = product("curvature", r.state("taken"), change) > CURVATURE
    pairs = []
    s, y = r.state("taken"), change
    for k in range(1, history + 1):  # the newest first; each moves on by one where a pair is kept
        old = r.state(f"s{k}"), r.state(f"y{k}")
        pairs.append((r.next(f"s{k}", Select(kept, s, old[0])),
                      r.next(f"y{k}", Select(kept, y, old[1]))))
        s, y = old
    known = [product(f"sy{k}", s, y) for k, (s, y) in enumerate(pairs, 1)]

    def share(number: int, of: Expr) -> Expr:
        return Select(known[number] > 0, of / known[number], Integer(0))

    q, parts = -r.g, []
    for k, (s, y) in enumerate(pairs):
        parts.append(share(k, product(f"sq{k + 1}", s, q)))
        q = r.define(f"q{k + 1}", q - parts[k] * y)
    newest = product("yy", pairs[0][1], pairs[0][1])
    q = r.define("scaled", q * Select(known[0] > 0, known[0] / newest, Integer(1)))
    for k in reversed(range(history)):
        s, y = pairs[k]
        back = share(k, product(f"yr{k + 1}", y, q))
        q = r.define(f"r{k + 1}", q + (parts[k] - back) * s)
    slope = r.define("slope", total(absolute(r.g), r.n), ())
    first = Select(slope > 1, 1 / slope, Integer(1))
    taken = r.next("taken", lr * q * Select(sympy.Gt(r.t, 1), Integer(1), first))
    r.next("before", r.g)
    return r.p + taken
