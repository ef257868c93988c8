"""What the ways of computing a sum over windows cost on a machine.

A way's predicted time is ``work * rate + elements moved * rate``; the rates are nanoseconds for one
of each, on one thread.
"""

from __future__ import annotations

from dataclasses import dataclass

WAYS = ("auto", "product", "direct")
Ways = str | tuple[tuple[str, str], ...]  # one for all equations, or for each by name


@dataclass(frozen=True)
class Rates:
    """Nanoseconds for a multiplication with its addition in a matrix product, and in a nest of
    loops; and for an element of windows copied, of windows summed, and of a border or a transposed
    copy."""

    product: float = 0.0175
    direct: float = 0.0175
    patch: float = 0.7
    partial: float = 0.7
    border: float = 0.3


RATES = Rates()
