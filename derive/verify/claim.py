"""A gradient derived by hand, as equations: what every way of handing one in becomes.

A NumPy function that was traced, SymPy equations and a LaTeX derivation all end as a `Claim`: the
network's forward program, extended by the equations that somebody claims, one for each statement.
Proof and the search for the first wrong line see claims only, never where they came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sympy import Expr

from derive.errors import ChainruleError, Location
from derive.naming import shape_text
from derive.program import Equation, Program


class ClaimError(ChainruleError):
    """What was handed in is no gradient of this network."""


@dataclass(frozen=True)
class Line:
    """One statement of a derivation.

    ``target`` is the name of its equation in the claim's program; ``claims`` the tensor of the
    network whose adjoint it says to be (a parameter or an intermediate), None where it does not
    say; ``named``: only its name suggests so (``δ_z``), and it may be one of its own; ``text`` the
    source as it was written; ``where`` its file and line; ``callers`` the statements that called
    the function that it is in, the nearest first.
    """

    target: str
    claims: str | None
    text: str
    where: Location | None = field(default=None, compare=False)
    callers: tuple[Location, ...] = field(default=(), compare=False)
    named: bool = False


@dataclass(frozen=True)
class Claim:
    """Claimed gradients of a network.

    ``program`` is the network's forward program (``program.forward``) with the claimed equations
    behind it, in an order of computation; ``gradients`` maps each parameter to the name of the
    equation that is said to be its gradient, whose indices are in the order of the parameter's
    dims; ``lines`` has one entry for each claimed equation, in the order written; ``source`` says
    what was handed in ("NumPy", "SymPy", "LaTeX"); ``notes`` what was recognised while reading
    (a layout, a constant); ``sizes`` the symbolic sizes that the equations hold at a number of
    only, by name (empty: they hold for all sizes); ``conditions`` what else must hold of the sizes
    (where the code branches on them).

    Raises:
        ClaimError: a gradient has no equation or another shape than its parameter.
    """

    program: Program
    gradients: Mapping[str, str]
    lines: tuple[Line, ...] = ()
    source: str = "NumPy"
    notes: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    conditions: tuple[Expr, ...] = ()

    def __post_init__(self) -> None:
        for parameter, target in self.gradients.items():
            line = self.line(target)
            where = line.where if line else None
            if target not in self.program.tensors:
                raise ClaimError(f"the gradient of {parameter!r} has no equation", where=where)
            want = self.program.tensors[parameter].shape
            got = self.program.tensors[target].shape
            if want != got:
                raise ClaimError(
                    f"the gradient of {parameter!r} has another shape than {parameter!r}",
                    expected=f"{shape_text(want)}: {parameter} is declared so",
                    got=shape_text(got), where=where)

    def line(self, target: str) -> Line | None:
        """The statement that an equation was written in."""
        return next((line for line in self.lines if line.target == target), None)

    @property
    def equations(self) -> tuple[Equation, ...]:
        """The claimed equations alone, in an order of computation."""
        targets = {line.target for line in self.lines}
        return tuple(eq for eq in self.program.equations if eq.name in targets)


def claimed_name(stem: str, taken: Collection[str]) -> str:
    """A name for a claimed equation: as it was written where it is free, else ``your_h``,
    ``your_h2``, … (names with an underscore in front belong to generated tensors)."""
    stem = stem.lstrip("_") or "v"
    if stem not in taken:
        return stem
    number = 1
    name = f"your_{stem}"
    while name in taken:
        number += 1
        name = f"your_{stem}{number}"
    return name
