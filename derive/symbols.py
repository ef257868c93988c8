"""The symbol of each name: ``W1`` is W with the subscript 1, ``y_hat`` has a hat, the adjoint of a
parameter is ∂L/∂W, that of an intermediate tensor has a bar.

Names are the users' own. What a name cannot say is not guessed: a name of several letters that is
no Greek letter stays as it is, upright.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from derive.errors import DeclarationError, nearest
from derive.naming import check_name
from derive.program import Program, Tensor, sweeps

ACCENTS = {
    "hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "dot": "\u0307", "vec": "\u20d7",
}  # fmt: skip
_COMBINING = {mark: name for name, mark in ACCENTS.items()}
GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε",
    "zeta": "ζ", "eta": "η", "theta": "θ", "iota": "ι", "kappa": "κ", "lambda": "λ", "lam": "λ",
    "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
    "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π",
    "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
}  # fmt: skip
_GENERATED = {"_d_": "adjoint", "_u_": "argument", "_p_": "softmax", "_n_": "ties",
              "_q_": "others"}


@dataclass(frozen=True)
class Symbol:
    """A letter (or a word) with accents, subscripts and primes.

    ``loss``: where set, the symbol stands for the derivative ∂loss/∂(the rest). Of a Jacobian,
    ``rows`` indices belong to ``loss``; where that is a derivative itself, it is a second one.
    """

    letter: str
    accents: tuple[str, ...] = ()
    subs: tuple[str | Symbol, ...] = ()
    primes: int = 0
    loss: Symbol | None = None
    rows: int = 0


_SETTINGS = {
    "adjoint": ("bar", "delta", "partial"), "layout": ("denominator", "numerator"),
    "samples": ("rows", "columns"),
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """The reader's notation, kept throughout a document.

    ``adjoint``: how the adjoint of an intermediate tensor is written: "bar", "delta" (δ with the
    name of its tensor) or "partial" (∂L/∂z). ``names``: other names for tensors, by name, read as
    a tensor's own name would be: ``{"_u_h": "z", "y": "y_hat"}``; ``indices`` the same for
    indices. ``layout``: whether a gradient has the shape of what it is the gradient of
    ("denominator"), or the transposed shape ("numerator"). ``samples``: whether the samples of
    a batch are the "rows" or the "columns" of a matrix. The last two change matrix forms; an
    index form is the same in all of them.

    Raises:
        DeclarationError: a setting that is none of these, or a name that no symbol can be read
            from.
    """

    adjoint: Literal["bar", "delta", "partial"] = "bar"
    names: Mapping[str, str] = field(default_factory=dict)
    indices: Mapping[str, str] = field(default_factory=dict)
    layout: Literal["denominator", "numerator"] = "denominator"
    samples: Literal["rows", "columns"] = "rows"

    def __post_init__(self) -> None:
        for setting, known in _SETTINGS.items():
            value = getattr(self, setting)
            if value not in known:
                guess = nearest(str(value), known)
                raise DeclarationError(
                    f"{setting}={value!r} is no notation", expected=" or ".join(known),
                    mend=f"did you mean {guess!r}?" if guess else None)
        for name in (*self.names.values(), *self.indices.values()):
            check_name(name, "symbol")


def symbol_of_name(name: str) -> Symbol:
    """The symbol that a plain name suggests."""
    first, *rest = [part for part in name.split("_") if part] or [name]
    accents: list[str] = []
    subs: list[str | Symbol] = []
    primes = 0
    matched = re.fullmatch(r"([^\W\d_]+)(\d*)", first)
    letter, digits = matched.groups() if matched else (first, "")
    letter = GREEK.get(letter, letter)
    decomposed = unicodedata.normalize("NFD", letter)
    if len(decomposed) == 2 and decomposed[1] in _COMBINING:
        letter = decomposed[0]
        accents.append(_COMBINING[decomposed[1]])
    if digits:
        subs.append(digits)
    for part in rest:
        if part in ACCENTS:
            accents.append(part)
        elif part in ("next", "prime"):
            primes += 1
        else:
            subs.append(GREEK.get(part, part))
    return Symbol(letter, tuple(accents), tuple(subs), primes)


class Symbols:
    """The symbols of a program's tensors, each different from all others.

    Without a program, a generated name says itself what it stands for.
    """

    def __init__(self, program: Program | None = None, style: Style | None = None) -> None:
        self.style = style or Style()
        self.tensors: Mapping[str, Tensor] = program.tensors if program else {}
        self.loss = _loss_name(program)
        self.scalars = {s.target: of for of, steps in sweeps(program.steps if program else ())
                        for s in steps}
        self.jacobians = {program.gradients[n]: of for n, of in program.jacobians.items()} \
            if program else {}
        self.index_names = {i.name for t in self.tensors.values() for i in t.indices}
        self.known: dict[str, Symbol] = {}
        self.used: set[Symbol] = set()
        names = [n for n in self.tensors if not n.startswith("_")]
        for name in (*names, *(n for n in self.tensors if n.startswith("_"))):
            self.tensor(name)

    def tensor(self, name: str) -> Symbol:
        if name not in self.known:
            candidates = self._candidates(name)
            chosen = next((c for c in candidates if c not in self.used), candidates[-1])
            number = 2
            while chosen in self.used:
                chosen = replace(candidates[-1], subs=(*candidates[-1].subs, str(number)))
                number += 1
            self.known[name] = chosen
            self.used.add(chosen)
        return self.known[name]

    def _candidates(self, name: str) -> list[Symbol]:
        if name in self.style.names:
            return [symbol_of_name(self.style.names[name])]
        if not name.startswith("_"):
            return [symbol_of_name(name)]
        kind, other = self.origin_of(name)
        if not kind:
            return [symbol_of_name(name)]
        base = self.tensor(other) if other in self.tensors or not self.tensors else \
            symbol_of_name(other)
        if name in self.jacobians:
            of = self.jacobians[name]
            if (symbol := self.tensor(of)).rows == 0:
                return [replace(base, loss=symbol, rows=self.tensors[of].rank)]
        if kind == "adjoint":
            return [self._adjoint(other, base, self._scalar(name))]
        plain = base if base.loss is None else replace(base, loss=None)
        if kind == "argument":
            return [Symbol("u", (), (plain,))]
        letter = {"softmax": "p", "ties": "n", "others": "q"}.get(kind, "v")
        named = Symbol(letter, (), (plain,))
        return [named] if letter in self.index_names else [Symbol(letter), named]

    def origin_of(self, name: str) -> tuple[str, str]:
        tensor = self.tensors.get(name)
        if tensor is not None and tensor.origin is not None:
            return tensor.origin
        for prefix, kind in _GENERATED.items():
            if name.startswith(prefix):
                rest = name[len(prefix):]
                hidden = next((p for p in _GENERATED if rest.startswith(p[1:])), None)
                return kind, ("_" + rest if hidden else rest)
        return "", ""

    def _scalar(self, adjoint: str) -> Symbol:
        """What an adjoint is the derivative of."""
        of = self.scalars.get(adjoint, "")
        return self.tensor(of) if of in self.tensors else self.loss

    def _adjoint(self, other: str, base: Symbol, scalar: Symbol) -> Symbol:
        if base.loss is not None:  # the adjoint of a gradient: a second derivative
            return Symbol("g", ("bar",), (replace(base, loss=None),))
        of = self.tensors.get(other)
        if (of is not None and of.role != "intermediate") or self.style.adjoint == "partial":
            return replace(base, loss=scalar)
        if self.style.adjoint == "delta":
            return Symbol("δ", (), (base,))
        return replace(base, accents=(*base.accents, "bar"))

    def index(self, name: str) -> Symbol:
        """An index; i1, made to be different from i, is i′."""
        if name in self.style.indices:
            return symbol_of_name(self.style.indices[name])
        matched = re.fullmatch(r"([^\W\d_]+)(\d+)", name)
        if matched and int(matched[2]) <= 3 and (
            matched[1] in self.index_names or not self.index_names
        ):
            return replace(symbol_of_name(matched[1]), primes=int(matched[2]))
        return symbol_of_name(name)

    def size(self, name: str) -> Symbol:
        return symbol_of_name(name)


def _loss_name(program: Program | None) -> Symbol:
    if program is None or not program.losses:
        return Symbol("L")
    if len(program.losses) == 1:
        return symbol_of_name(program.losses[0])
    of = [name for name, _ in sweeps(program.steps)]
    return symbol_of_name(of[-1] if of else program.losses[0])
