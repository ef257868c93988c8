"""Names, sizes and indices as a user gives them, checked; shapes as messages show them."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from derive.errors import DeclarationError
from derive.nodes import Index, size_symbol


def check_name(name: str, kind: str) -> str:
    """A plain identifier without a leading underscore (those are for generated names)."""
    if not isinstance(name, str):
        raise DeclarationError(f"a {kind} needs a name", expected="a string", got=repr(name))
    name = unicodedata.normalize("NFKC", name)
    if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        raise DeclarationError(
            f"{name!r} cannot be the name of a {kind}",
            expected="letters, digits and underscores, a letter first, no Python keyword",
            got=repr(name),
            mend='a plain name such as "W1" or "y_hat"',
        )
    return name


def printable(text: str) -> str:
    """A text of a user's without what controls a line or its direction."""
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)


def as_size(size: Expr | int | str) -> Expr:
    """A size: a whole number of at least 1, or a name such as "B" for a run-time size."""
    if isinstance(size, str):
        return sympy.Integer(int(size)) if size.isdigit() else size_symbol(check_name(size, "size"))
    value = sympy.sympify(size)
    if value.is_integer is not True or value.is_positive is not True:
        raise DeclarationError(
            "a size must be a whole number of at least 1, or a name", got=repr(size)
        )
    return value


def indices(text: str) -> Any:
    """Indices from ``"b:B i:64 j:32"``: a name, a colon, a size (a number or a name).

    Returns:
        One `Index`, or a tuple of them where several are named.

    Raises:
        DeclarationError: a part is not ``name:size``, or a name stands twice.
    """
    made: list[Index] = []
    for part in text.replace(",", " ").split():
        name, colon, size = part.partition(":")
        if not colon or not size:
            raise DeclarationError(
                f"cannot read the index {part!r}", expected='name:size, as in "b:B i:64"',
                got=repr(text),
            )
        check_name(name, "index")
        if name in {i.name for i in made}:
            raise DeclarationError(f"index {name!r} is declared twice", got=repr(text))
        made.append(Index(name, as_size(size)))
    if not made:
        raise DeclarationError("no index is named", expected='for example "b:B i:64"')
    return made[0] if len(made) == 1 else tuple(made)


def names_text(indices: Sequence[Index]) -> str:
    """Names as a list: b, i."""
    return ", ".join(i.name for i in indices)


def shape_text(shape: Sequence[Expr]) -> str:
    """A shape as Python writes one: (B, 64)."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
