"""Where two gradients differ although they are equal elsewhere, in words."""

from __future__ import annotations

from fractions import Fraction

from derive.verify.prove import Prover
from derive.verify.terms import Frozen, Monomial, Place, Table


def kink_words(prover: Prover) -> str:
    """The places that were left out of a proof modulo kinks; empty where none was."""
    places = [f"{sum_words(prover.forms.table, frozen)} = 0" for frozen in prover.forms.dropped]
    if prover.ties:
        places.append("two elements tie for a maximum")
    shown = list(dict.fromkeys(places))
    listed = "; ".join(shown[:4]) + (f"; and {len(shown) - 4} more" if len(shown) > 4 else "")
    return f"they may differ where {listed}" if shown else ""


def sum_words(table: Table, frozen: Frozen) -> str:
    """A normal form as text, for a message."""
    parts = []
    for monomial, coefficient in frozen:
        words = [factor_words(table, n, e) for n, e in monomial]
        number = [] if abs(coefficient) == 1 and words else [str(abs(coefficient))]
        parts.append(("- " if coefficient < 0 else "+ ") + "·".join([*number, *words]))
    return " ".join(parts).removeprefix("+ ") or "0"


def factor_words(table: Table, n: int, e: Fraction) -> str:
    f = table.factors[n]
    power = "" if e == 1 else f"^{e}"
    if f[0] == "T":
        inside = ", ".join(place_words(p) for p in f[2])
        name, _, label = f[1].partition("@")
        both = ", ".join(x for x in (label, inside) if x)
        return f"{name}[{both}]{power}" if both else name + power
    if f[0] in "NC":
        return f"{f[1]}{power}"
    if f[0] == "S":
        return f"sum({monomial_words(table, f[2])}){power}"
    if f[0] == "E":
        return f"exp({e}·{monomial_words(table, f[1])})" if e != 1 else (
            f"exp({monomial_words(table, f[1])})")
    if f[0] == "P":
        return f"({sum_words(table, f[1])}){power}"
    if f[0] == "R":
        return f"{f[1]}({sum_words(table, f[3])}){power}"
    if f[0] == "D":
        return f"[{place_words(f[2])} {'= 0' if f[1] == 'eq' else '>= 0'}]"
    inner = sum_words(table, f[2])
    return f"[{inner} {'> 0' if f[1] == 'pos' else '= 0'}]" if f[0] == "I" else (
        f"{f[1]}({inner}){power}")


def monomial_words(table: Table, monomial: Monomial) -> str:
    return "·".join(factor_words(table, n, e) for n, e in monomial) or "1"


def place_words(place: Place) -> str:
    parts = [("" if s == 1 else f"{s}·") + _atom_words(atom) for atom, s in place[0]]
    if place[1] or not parts:
        parts.append(str(place[1]))
    return " + ".join(parts)


def _atom_words(atom: tuple) -> str:
    if atom[0] == "v":
        return atom[1].lstrip("f") if atom[1][1:].isdigit() else atom[1]
    if atom[0] == "g":
        return f"{atom[1]}[{', '.join(place_words(p) for p in atom[2])}]"
    if atom[0] in "qr":
        return f"({place_words(atom[1])}) {'//' if atom[0] == 'q' else '%'} {atom[2]}"
    return str(atom[1])
