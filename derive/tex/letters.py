"""Names and letters of claimed equations, as a person would choose them."""

from __future__ import annotations

from string import ascii_lowercase

from sympy import Expr

from derive.nodes import Index, walk
from derive.program import Program
from derive.tex.values import put


def plain(key: str) -> str:
    """A key as a name: δ_{2} as δ2, y~hat as y_hat."""
    stem, _, rest = key.replace("}", "").replace("'", "_prime").partition("_{")
    stem = stem.replace("~", "_")
    parts = [p for p in rest.replace("_{", ",").split(",") if p]
    made = stem + ("" if parts and parts[0].isdigit() else "_" * bool(parts)) + "_".join(parts)
    made = "".join(c if c.isalnum() or c == "_" else "_" for c in made)
    return made if made.isidentifier() else f"v_{made}"


def lettered(indices: tuple[Index, ...], body: Expr, program: Program
              ) -> tuple[tuple[Index, ...], Expr]:
    """An equation whose generated indices have letters: the network's own for a size."""
    generated = [i for i in indices if i.name.startswith("_")]
    generated += [i for node in walk(body) for i in getattr(node, "bound", ())
                  if i.name.startswith("_")]
    used = {s.name for s in (*indices, *body.atoms(Index)) if not s.name.startswith("_")}
    usual = [i for tensor in program.tensors.values() for i in tensor.indices]
    pairs: dict[Index, Expr] = {}
    for index in dict.fromkeys(generated):
        letters = [i.name for i in usual if i.size == index.size]
        letters += list(ascii_lowercase[8:] + ascii_lowercase[:8])
        letters += [f"{c}{n}" for n in range(1, 99) for c in "ijk"]
        name = next(x for x in letters if x not in used)
        used.add(name)
        pairs[index] = Index(name, index.size)
    primes = {i: Index(i.name.replace("'", "1"), i.size) for i in (*indices, *body.atoms(Index))
              if "'" in i.name}
    pairs |= {i: new for i, new in primes.items() if new.name not in used}
    return tuple(pairs.get(i, i) for i in indices), put(body, pairs)  # type: ignore[misc]
