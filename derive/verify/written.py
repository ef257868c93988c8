"""A derivation handed in as index equations: text in the notation of `.net`, or SymPy expressions.

    d_z2[b, k] = (p[b, k] - t[b, k])/B          # adjoints on the way, as many as you like
    d_W2[j, k] = sum[b](h1[b, j]*d_z2[b, k])    # the gradient of W2

A target called ``d_NAME`` (or ``dNAME``) is the adjoint of the tensor ``NAME``; the network's own
tensors may be used by name. In SymPy the keys of a dictionary are elements of parameters,
``{W2[j, k]: dr.sum(h1[b, j]*dz2, b)}``. Both are read into a `Claim`, and what a function goes
through (numbers, proof, the first wrong line) they go through as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sympy import Expr

from derive.errors import Location, nearest
from derive.netfile import WORDS, Statements
from derive.netparse import Source, Token
from derive.network import Handle
from derive.nodes import Access, Index
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate
from derive.verify.claim import Claim, ClaimError, Line, claimed_name
from derive.verify.decide import combined
from derive.verify.precision import DOUBLE

NAME = "the derivation"


class Written:
    """A derivation as a gradient function: its claim, evaluated in float64."""

    label, eps, note = NAME, DOUBLE, ""

    def __init__(self, claim: Claim, derived: Program) -> None:
        self.claim, self.names = claim, tuple(claim.gradients)
        self._program = combined(claim, derived)

    def __call__(self, point: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The claimed gradients at a point, float64 arrays by parameter name.

        Raises:
            ClaimError: one of them holds what is no finite number, at a finite loss.
        """
        targets = self.claim.gradients
        found = evaluate(self._program, dict(point), tuple(targets.values()))
        for parameter, target in targets.items():
            if not np.isfinite(found[target]).all():
                line = self.claim.line(target)
                raise ClaimError(f"the gradient of {parameter!r} holds what is no finite number",
                                 got=line.text if line else None)
        return {p: np.asarray(found[t], dtype=float) for p, t in targets.items()}


def read_derivation(text: str, derived: Program) -> Claim:
    """The claim of a derivation in the notation of `.net`.

    Args:
        text: one equation a line.
        derived: the network with its gradients.

    Raises:
        NetFileError: what does not fit, with line and caret.
        ClaimError: no equation is the gradient of a parameter, or one has another shape.
    """
    reader = _Equations(Source(text, NAME), derived)
    program = reader.run().program()
    new = program.equations
    texts = text.splitlines()
    lines = tuple(
        Line(eq.name, adjoint_of(eq.name, derived), texts[number - 1].strip(),
             Location(NAME, number)) for eq in new if (number := reader.numbers[eq.name]))
    return _claim(derived, new, lines, "index equations")


def symbolic_claim(gradients: Mapping[Any, Any], derived: Program) -> Claim:
    """The claim of SymPy expressions by element of a parameter.

    Raises:
        ClaimError: a key is no element of a parameter with an index for each dim.
    """
    equations, lines = [], []
    for key, value in gradients.items():
        access = key.tensor.access if isinstance(key, Handle) and not key.tensor.rank else key
        known = isinstance(access, Access) and access.name in derived.gradients
        if not known or not all(isinstance(e, Index) for e in access.where):
            raise ClaimError(f"{key!s:.80} is no element of a trained parameter",
                             expected="a parameter with an index for each dim, such as W1[i, j]: "
                             + ", ".join(derived.gradients), got=type(key).__name__)
        body = value.tensor.access if isinstance(value, Handle) else value
        if not isinstance(body, Expr):
            raise ClaimError(f"the gradient of {access.name!r} is no SymPy expression",
                             got=type(value).__name__)
        free = {s for s in body.free_symbols if isinstance(s, Index)} - set(access.where)
        if free:
            raise ClaimError(
                f"the gradient of {access.name!r} keeps the index {min(map(str, free))!r}",
                expected=f"only {', '.join(map(str, access.where))} free",
                mend="sum over it: dr.sum(…, index)")
        name = claimed_name(f"d_{access.name}", derived.tensors)
        indices = tuple(access.where)
        equations.append(Equation(Tensor(name, indices), indices, body, "claimed"))
        lines.append(Line(name, access.name, f"{access} : {body}"))
    return _claim(derived, equations, tuple(lines), "SymPy")


def adjoint_of(target: str, derived: Program) -> str | None:
    """The tensor whose adjoint a target is by its name."""
    for prefix in ("d_", "d"):
        stem = target.removeprefix(prefix)
        if target.startswith(prefix) and stem in derived.tensors:
            return stem
    return None


def _claim(derived: Program, equations: Sequence[Equation], lines: tuple[Line, ...],
           source: str) -> Claim:
    found = {line.claims: line.target for line in lines if line.claims in derived.gradients}
    gradients = {p: found[p] for p in derived.gradients if p in found}
    if not gradients:
        wanted = [f"d_{p}" for p in derived.gradients]
        got = [line.target for line in lines]
        guess = nearest(got[-1], wanted) if got else None
        raise ClaimError("no equation is the gradient of a trained parameter",
                         expected=", ".join(wanted), got=", ".join(got) or "no equation",
                         mend=f"did you mean {guess!r}?" if guess else None)
    return Claim(derived.forward.with_equations(equations), gradients, lines, source)


class _Equations(Statements):
    """Reads equations over a network's tensors, which stand as inputs."""

    def __init__(self, source: Source, derived: Program) -> None:
        super().__init__(source)
        self.numbers: dict[str, int] = {}
        for tensor in derived.forward.tensors.values():
            if not tensor.name.startswith("_"):
                kind = int if tensor.dtype == "int" else float
                self.handles[tensor.name] = self.net.input(
                    tensor.name, *tensor.indices, dtype=kind, distribution=tensor.distribution)
            self.known = {i.name: i for i in tensor.indices} | self.known
        self.sizes |= {str(s): s for s in derived.sizes}

    def _statement(self, token: Token) -> None:
        declares = token.text in WORDS and self.reader.now.kind in ("name", "text")
        if declares and token.text != "index":
            self.reader.fail(f"a derivation declares no {token.text}",
                             "an equation: the network has its tensors already", at=token.at)
        number = self.reader.source.text.count("\n", 0, token.at) + 1
        before = set(self.handles)
        super()._statement(token)
        for name in set(self.handles) - before:
            self.numbers[name] = number
