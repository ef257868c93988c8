"""What equations are for, found in their form: normalisation, and the gates of a recurrence.

Nothing is declared: whoever writes an LSTM or a batch norm by hand gets the same remarks as the
layers of `derive.layers`. What is claimed of an equation is read off its body, or computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Mul, Pow, S

from derive.functions import sigmoid
from derive.nodes import Access, Index, IntegerAccess, Reduction, Select, SumOver, rename
from derive.program import Equation, Group, Program


# -- normalisation ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Normalised:
    """``of`` minus its ``mean``, over the root of ``variance`` plus ``eps``; ``over`` are the
    indices that mean and variance are taken over (none where both are states: in prediction).

    ``cancelled`` are what is added to ``of`` alike in all places of one mean; ``kept`` the states
    that follow mean and variance.
    """

    of: str
    mean: str
    variance: str
    eps: Expr
    over: tuple[Index, ...]
    cancelled: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def count(self) -> Expr:
        """How many elements one mean is of."""
        return Mul(*(i.size for i in self.over))


def normalised(program: Program, eq: Equation) -> Normalised | None:
    """What an equation normalises, or None where it does not.

    Mean and variance are looked at: they must be those of what is divided. That the result has
    the same value where what comes in is scaled and shifted is computed, with 0 for ``eps``.
    """
    for root in eq.body.atoms(Pow):
        split = _root_of_variance(root)
        if split is None:
            continue
        variance, eps = split
        for difference in eq.body.atoms(Add):
            found = _deviation(difference)
            if found is None:
                continue
            x, mean = found
            if all(program.tensors[a.name].role == "state" for a in (mean, variance)):
                return Normalised(x.name, mean.name, variance.name, eps, (), (), ())
            over = _moments(program, x, mean, variance)
            if over and _without_scale(eq, x, mean, variance, eps):
                return Normalised(x.name, mean.name, variance.name, eps, over,
                                  _cancelled(program, x, over),
                                  _following(program, mean.name, variance.name))
    return None


def _root_of_variance(root: Expr) -> tuple[Access, Expr] | None:
    """``(v + eps)^(-1/2)`` as v and eps."""
    if root.exp != -S.Half:
        return None
    terms = Add.make_args(root.base)
    found = [t for t in terms if isinstance(t, Access)]
    rest = Add(*(t for t in terms if not isinstance(t, Access)))
    return (found[0], rest) if len(found) == 1 and rest.is_number else None


def _deviation(difference: Expr) -> tuple[Access, Access] | None:
    """``x - m`` as x and m."""
    if len(difference.args) != 2:
        return None
    plus = [a for a in difference.args if isinstance(a, Access)]
    minus = [-a for a in difference.args if isinstance(-a, Access)]
    return (plus[0], minus[0]) if plus and minus else None


def _moments(program: Program, x: Access, mean: Access, variance: Access) -> tuple[Index, ...]:
    """The indices over which the two are mean and variance of x; () where they are not."""
    bodies = []
    for moment in (mean, variance):
        made = program.defined.get(moment.name)
        if made is None or len(made.indices) != len(moment.where):
            return ()
        bodies.append(rename(made.body, dict(zip(made.indices, moment.where, strict=True))))
    over = _mean_of(bodies[0], x)
    inside = sympy.expand((x - mean) ** 2)
    return over if over and over == _mean_of(bodies[1], inside) else ()


def _mean_of(body: Expr, inside: Expr) -> tuple[Index, ...]:
    sums = body.atoms(SumOver)
    if len(sums) != 1:
        return ()
    (total,) = sums
    if body != total / Mul(*(i.size for i in total.bound)):
        return ()
    return total.bound if sympy.expand(total.body) == inside else ()


def _without_scale(eq: Equation, x: Access, mean: Access, variance: Access, eps: Expr) -> bool:
    """Whether the result is the same for x and for 3 x + 2, where eps is 0: element by element,
    in exact numbers, with 3 m + 2 and 9 v for the mean and the variance."""
    body = eq.body.xreplace({variance + eps: variance})
    if body.has(Reduction, Select, IntegerAccess):
        return False
    for seed in (1, 2):
        plain: dict[Expr, Expr] = {}
        scaled: dict[Expr, Expr] = {}
        for n, access in enumerate(sorted(body.atoms(Access), key=str), start=seed):
            value = sympy.Rational(n * n, 49)  # whose root is exact
            plain[access] = value
            scaled[access] = {x.name: 3 * value + 2, mean.name: 3 * value + 2,
                              variance.name: 9 * value}.get(access.name, value)
        left, right = body.xreplace(plain), body.xreplace(scaled)
        if left.free_symbols or sympy.simplify(left - right) != 0:
            return False
    return True


def _cancelled(program: Program, x: Access, over: tuple[Index, ...]) -> tuple[str, ...]:
    """Parameters added to x alike in all places of one mean: the deviation lacks them."""
    made = program.defined.get(x.name)
    if made is None:
        return ()
    body = rename(made.body, dict(zip(made.indices, x.where, strict=True)))
    terms = [t for t in Add.make_args(body) if isinstance(t, Access)]
    return tuple(t.name for t in terms if program.tensors[t.name].role == "parameter"
                 and not set(over) & t.free_symbols
                 and sum(t.name in e.reads for e in program.equations
                         if (e.tensor.origin or ("",))[0] != "adjoint") == 1)


def _following(program: Program, mean: str, variance: str) -> tuple[str, ...]:
    return tuple(state for state, new in program.updates.items()
                 if {mean, variance} & set(program.defined[new].reads))


# -- gates ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Carried:
    """A state that is carried on from step to step by a factor: ``keep`` times the element of the
    step before (``last``), which stays between 0 and 1.

    ``written`` are pairs of what is written and the factor it is written with, ``shown`` triples of
    a tensor, what of the state it shows, and the gate that it shows it through; ``reset`` are
    gates inside what is written.
    """

    last: Access
    keep: Expr
    written: tuple[tuple[Expr, Expr], ...]
    shown: tuple[tuple[str, Expr, Expr], ...]
    reset: tuple[Expr, ...]
    steps: Expr


def carried(program: Program, group: Group | None, eq: Equation) -> Carried | None:
    """How an equation of a recurrence carries its own state on, or None where no gate does."""
    if group is None or eq.name not in group.axis:
        return None
    body = _open(eq.body)
    axis = group.axis[eq.name]
    own = [a for a in body.atoms(Access) if a.name == eq.name]
    if len(own) != 1 or any(w != i for d, (w, i) in enumerate(zip(
            own[0].where, eq.indices, strict=True)) if d != axis):
        return None
    (last,) = own
    keep = sympy.diff(body.xreplace({last: (here := sympy.Dummy())}), here)
    if keep.has(here) or not _is_gate(program, keep):
        return None
    rest = sympy.expand(body - keep * last) if body.is_Add else S.Zero
    terms = [t for t in Add.make_args(body) if not t.has(last)]
    written = tuple(pair for t in terms for pair in _written(program, t))
    if not written or rest == 0:
        return None
    reset = tuple(a for what, _ in written for a in _inner_gates(program, what, keep))
    shown = tuple(_shown(program, group, eq))
    return Carried(last, keep, written, shown, reset, eq.indices[axis].size)


def _open(body: Expr) -> Expr:
    """The body within bounds: guards on indices and on lengths taken away."""
    while True:
        selects = list(body.atoms(Select))
        if not selects:
            return body
        body = body.xreplace({s: s.yes for s in selects})


def _is_gate(program: Program, factor: Expr) -> bool:
    """Whether a factor lies between 0 and 1: σ of something, or 1 minus it."""
    for part in (factor, 1 - factor):
        if isinstance(part, sigmoid):
            return True
        if isinstance(part, Access):
            made = program.defined.get(part.name)
            if made is not None and isinstance(_open(made.body), sigmoid):
                return True
    return False


def _written(program: Program, term: Expr) -> Iterator[tuple[Expr, Expr]]:
    """A product of a gate and of what passes it; of two gates the one that is 1 minus another,
    or the first, is the gate."""
    factors = list(Mul.make_args(term))
    if len(factors) != 2 or any(f.has(SumOver) for f in factors):
        return
    gates = [f for f in factors if _is_gate(program, f)]
    if gates:
        gate = next((g for g in gates if g.is_Add), gates[0])
        factors.remove(gate)
        yield factors[0], gate


def _inner_gates(program: Program, what: Expr, keep: Expr) -> Iterator[Expr]:
    """Gates inside the equation of what is written: those of a GRU that hide the state."""
    made = program.defined.get(what.name) if isinstance(what, Access) else None
    for product in made.body.atoms(Mul) if made is not None else ():
        yield from (f for f in product.args
                    if isinstance(f, Access) and f != keep and _is_gate(program, f))


def _shown(program: Program, group: Group, eq: Equation) -> Iterator[tuple[str, Expr, Expr]]:
    """Equations of the same step that show the state through a gate."""
    state = eq.target
    for other in group.equations:
        if other.name == eq.name or len(other.indices) != len(eq.indices):
            continue
        body = _open(rename(other.body, dict(zip(other.indices, eq.indices, strict=True))))
        factors = list(Mul.make_args(body))
        gates = [f for f in factors if _is_gate(program, f)]
        if len(factors) == 2 and len(gates) == 1:
            factors.remove(gates[0])
            if factors[0] == state or (factors[0].is_Function and factors[0].args == (state,)):
                yield other.name, factors[0], gates[0]
