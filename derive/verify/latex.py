"""A derivation handed in as LaTeX: read by `derive.tex` into a `Claim`.

Every layout in which a writer's matrices may lie is a reading; that with the fewest changes to
what is declared, in which every line fits, is taken, and said in the claim's notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import numpy as np

from derive.errors import DeclarationError
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from derive.symbols import Symbols
from derive.tex.names import Layout, Names, declared_names, renamed
from derive.tex.parsed import Statement, first_index, statements
from derive.tex.source import LatexError, Source
from derive.tex.statements import Derivation
from derive.tex.values import MisfitError
from derive.verify.claim import Claim, ClaimError, Line

_CHOICES = {"samples": ("rows", "columns"), "weights": ("as declared", "transposed"),
            "gradients": ("denominator", "numerator"), "vectors": ("column", "row")}


def read_latex(text: str, derived: Program, *, name: str = "the derivation",
               names: Mapping[str, Any] | None = None, layout: Mapping[str, Any] | None = None
               ) -> Claim:
    """The claim of a derivation in LaTeX.

    Args:
        text: formulas, or a document with formulas in it.
        derived: the network with its gradients.
        name: what messages call the text (the path of a file).
        names: what symbols mean that are not the declared names: ``{"X": "x", "N": "B"}``.
        layout: settings of `Layout`, and ``first``, the number that indices begin with; what is
            not set here is recognised by the shapes.

    Raises:
        LatexError: a formula cannot be read, or has several readings; with line and caret.
        ClaimError: no line is the gradient of a parameter.
    """
    source = Source(text, name).checked()
    found = statements(source)
    fixed = dict(layout or {})
    first = fixed.pop("first", None)
    base = first_index(found, source) if first is None else int(first)
    _check(fixed)
    made, used = _fitting(source, found, derived, names or {}, fixed, base)
    return _claim(source, made, used, derived, base)


def _check(fixed: Mapping[str, Any]) -> None:
    for setting, value in fixed.items():
        known = _CHOICES.get(setting)
        if known is None or value not in known:
            raise DeclarationError(
                f"layout {setting}={value!r} is none",
                expected="; ".join(f"{k}: {' or '.join(v)}" for k, v in _CHOICES.items())
                + "; first: 0 or 1")


def _fitting(source: Source, found: list[Statement], derived: Program, given: Mapping[str, Any],
             fixed: Mapping[str, Any], base: int) -> tuple[Derivation, Layout]:
    """The derivation in the layout in which it fits: as declared, else with the fewest changes."""
    trouble: MisfitError | None = None
    fitting: list[tuple[Derivation, Layout]] = []
    for group in _layouts(fixed):
        for layout in group:
            made = Derivation(source, _names(derived, given), layout, base, found, derived.forward)
            try:
                made.run()
                fitting.append((made, layout))
            except MisfitError as misfit:
                trouble = trouble or misfit
            except RecursionError:
                source.fail(0, "a formula is nested too deeply")
        if fitting:
            break
    if not fitting:
        assert trouble is not None
        raise source.error(trouble.at or 0, trouble.what, trouble.expected, trouble.mend) from None
    numbers = [_numbers(made) for made, _ in fitting]
    for n in range(1, len(fitting)):
        if not all(a.shape == b.shape and np.allclose(a, b) for a, b in
                   zip(numbers[0], numbers[n], strict=True)):
            source.fail(0, "the derivation fits in more than one layout",
                        f"one of\n      {fitting[0][1]}\n      {fitting[n][1]}",
                        "layout={…} with the one that is meant")
    return fitting[0]


def _names(derived: Program, given: Mapping[str, Any]) -> Names:
    forward = derived.forward
    plain = [n for n in forward.tensors if not n.startswith("_")]
    names = declared_names(forward, Symbols(forward), plain)
    renamed(names, given)
    return names


def _layouts(fixed: Mapping[str, Any]) -> Iterator[list[Layout]]:
    """The layout as declared, then those with one change, two, …"""
    free = [f.name for f in fields(Layout) if f.name not in fixed]
    for count in range(len(free) + 1):
        yield [replace(Layout(**fixed), **{s: _CHOICES[s][1] for s in some})
               for some in combinations(free, count)]


def _numbers(made: Derivation) -> list[np.ndarray]:
    program = made.program
    sizes = default_sizes(program)
    values = evaluate(program, random_values(program, 3, sizes), None, sizes)
    return [values[m.equation.name] for m in made.made]


def _claim(source: Source, made: Derivation, layout: Layout, derived: Program, base: int) -> Claim:
    order = sorted(made.made, key=lambda m: m.at)
    lines = tuple(Line(m.equation.name, m.claims, _row(source, m.at), source.location(m.at),
                       named=m.named) for m in order)
    gradients = {p: t for p in derived.gradients if (t := _gradient(made, p, derived)) is not None}
    if not gradients:
        raise ClaimError(
            "no line is the gradient of a trained parameter",
            expected=", ".join(rf"\frac{{\partial L}}{{\partial {p}}} = …"
                               for p in derived.gradients),
            got=", ".join(m.equation.name for m in order))
    notes = [str(layout)] if layout != Layout() else []
    notes += [f"indices begin with {base}"] if base else []
    notes += [f"{letter} is {size}" for letter, size in made.limits.items()]
    notes += made.notes
    notes += [f"line {source.line(m.at)}: {m.equation}" for m in order]
    program = derived.forward.with_equations(m.equation for m in order)
    return Claim(program, gradients, lines, "LaTeX", tuple(notes))


def _gradient(made: Derivation, parameter: str, derived: Program) -> str | None:
    """The line that is the gradient of a parameter: the last of a chain of equations, or the
    first of it that is not equal to the derived one."""
    steps = [m.equation.name for m in made.made if m.claims == parameter]
    if len(steps) < 2:
        return steps[0] if steps else None
    program = derived.with_equations(m.equation for m in made.made)
    sizes = default_sizes(program)
    right = derived.gradients[parameter]
    values = evaluate(program, random_values(program, 7, sizes), (*steps, right), sizes)
    scale = float(np.max(np.abs(values[right]), initial=0.0))
    wrong = [s for s in steps
             if not np.max(np.abs(values[s] - values[right]), initial=0.0) <= 1e-9 * scale]
    return wrong[0] if wrong else steps[-1]


def _row(source: Source, at: int) -> str:
    """The row of the text around a place, without signs of alignment."""
    start = source.text.rfind("\n", 0, at) + 1
    row = source.text[start:].split("\n", 1)[0]
    return row.replace("&", "").rstrip().removesuffix("\\\\").strip()


def is_latex(text: str) -> bool:
    """Whether a derivation is in LaTeX (index equations have brackets instead)."""
    return any(sign in text for sign in ("\\", "^", "_{", "$"))


__all__ = ["LatexError", "is_latex", "read_latex"]
