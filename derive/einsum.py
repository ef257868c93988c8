"""Contractions of any rank in the notation of ``numpy.einsum``."""

from __future__ import annotations

import string

from sympy import Add, Expr, Mul

from derive.nodes import Access, Index, SumOver
from derive.notate import Builder
from derive.program import Equation


def einsum_text(eq: Equation) -> str | None:
    """``einsum("tbi,ij->tbj", x, U) + c`` for an equation that is a sum of contractions of plain
    accesses (times a constant, which is put in front) and of tensors over its last dims, which
    NumPy spreads over the first; else None."""
    shown = []
    for term in sorted(Add.make_args(eq.body), key=lambda t: (not t.has(SumOver), str(t))):
        if isinstance(term, Access) and term.where == eq.indices[len(eq.indices)
                                                                - len(term.where):]:
            shown.append(term.name)
            continue
        call = _call(eq, term)
        if call is None:
            return None
        shown.append(call)
    return " + ".join(shown) if "einsum" in shown[0] else None


def _call(eq: Equation, body: Expr) -> str | None:
    coefficient, rest = body.as_coeff_Mul()
    factors = Mul.make_args(rest)
    sums = [f for f in factors if isinstance(f, SumOver)]
    if len(sums) != 1 or any(f.has(Access, Index) for f in factors if f is not sums[0]):
        return None
    parts = sorted(Mul.make_args(sums[0].body), key=Builder(eq.indices)._factor_key)
    letters: dict[Expr, str] = {}
    spelled = []
    for part in parts:
        if not isinstance(part, Access) or not all(isinstance(w, Index) for w in part.where):
            return None
        spelled.append("".join(_letter(w, letters) for w in part.where))
    out = "".join(_letter(i, letters) for i in eq.indices)
    names = ", ".join(p.name for p in parts)
    call = f'einsum("{",".join(spelled)}->{out}", {names})'
    front = coefficient * Mul(*(f for f in factors if f is not sums[0]))
    if front == 1:
        return call
    from derive.text import expression_text

    return f"{expression_text(front)} * {call}"


def _letter(index: Expr, letters: dict[Expr, str]) -> str:
    if index not in letters:
        name = index.name
        taken = set(letters.values())
        free = name if len(name) == 1 and name.isascii() and name not in taken else next(
            c for c in name[:1] + string.ascii_letters if c.isascii() and c not in taken
        )
        letters[index] = free
    return letters[index]
