"""Formulas in LaTeX → equations, by a strict grammar and declared names.

`derive.tex.lines` finds the formulas, `derive.tex.grammar` their trees, `derive.tex.terms` every
reading whose shapes fit, `derive.tex.statements` the equations. Nothing is guessed: a name that is
not declared, and a line with two readings, is an error that shows the place.
"""

from __future__ import annotations

from derive.tex.source import LatexError

__all__ = ["LatexError"]
