"""Left sides: which adjoint a line says to be, or which name it defines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from derive.tex import tree as t
from derive.tex.names import DIFFERENTIALS, Item, items, node_key, splits
from derive.tex.symbols import above, adjoint_stem
from derive.tex.terms import Reader
from derive.tex.values import MisfitError


@dataclass(frozen=True)
class Head:
    """What stands left of an equals sign: the adjoint of a tensor, or a name of its own, with
    letters behind it; ``named``: only the name says that it is the adjoint."""

    key: str
    of: str | None
    found: tuple[Item, ...]
    named: bool = False


class HeadReader(Reader):
    """A reader that knows left sides."""

    def heads(self, node: t.Node) -> Iterator[Head]:
        adjoint = self.adjoint_head(node)
        if adjoint is not None:
            yield adjoint
            return
        base = node.base if isinstance(node, t.Scripted) else node
        if not isinstance(base, t.Sym | t.Word):
            raise MisfitError("the left side is no symbol", "a name, or an adjoint such as "
                              r"\frac{\partial L}{\partial W}",
                              "the loss by its name, L, in the place of what it is"
                              if isinstance(base, t.Frac | t.Seq) else None, at=node.at)
        subs, sups = (node.subs, node.sups) if isinstance(node, t.Scripted) else ((), ())
        primes = "'" * (node.primes if isinstance(node, t.Scripted) else 0)
        reading = above(sups)[-1]
        found = [*reading.found, *(i for n, s in enumerate(subs) for i in items(s, -n - 1))]
        known = [h for names, rest in splits(found)
                 if (h := self._known_head(base, names, rest, primes)) is not None]
        if known:
            yield known[0]
            return
        for names, rest in splits(found):
            if all(is_letter(i) for i in rest):
                yield Head(_key(base, names) + primes, None, rest)

    def _known_head(self, base: t.Node, names: Sequence[str], rest: tuple[Item, ...], primes: str
                    ) -> Head | None:
        key = _key(base, names) + primes
        if key in self.names.named_adjoints:
            return Head(key, self.names.named_adjoints[key], rest)
        entry = self.names.entries.get(key)
        if entry is not None and entry.declared and len(rest) <= entry.tensor.rank:
            return Head(key, None, rest)
        stem = adjoint_stem(self, base, names)
        return Head(key, stem, rest, named=True) if stem is not None else None

    def adjoint_head(self, node: t.Node) -> Head | None:
        found = self.derived(node)
        if found is None and isinstance(node, t.Seq):
            found = self._differential_head(node)
        if found is None and isinstance(node, t.Scripted) and isinstance(node.base, t.Group) \
                and node.base.kind == "(" and not node.sups and not node.primes:
            inner = self.adjoint_head(node.base.body)  # (∇_o L)_i
            found = None if inner is None or inner.of is None else (inner.of, (
                *inner.found, *(i for n, s in enumerate(node.subs) for i in items(s, -n - 1))))
        return Head(f"∂{found[0]}", found[0], tuple(found[1])) if found is not None else None

    def _differential_head(self, node: t.Seq) -> tuple[str, Sequence[Item]] | None:
        """``∂L/∂W``, ``∇_W L`` and ``dW``."""
        pieces = node.pieces
        if len(pieces) == 5 and isinstance(pieces[2], t.Op) and pieces[2].text == "/":
            above_, below = pieces[:2], pieces[3:]
            return self.derived(t.Frac(t.Seq(above_, node.at), t.Seq(below, node.at), node.at))
        if len(pieces) != 2:
            return None
        first, second = pieces
        if isinstance(first, t.Op) or isinstance(second, t.Op):
            return None
        if isinstance(first, t.Scripted) and isinstance(first.base, t.Mark) \
                and first.base.kind == "NABLA" and (node_key(second) or "") in self.names.losses:
            return self.subject(first.subs[0])
        if isinstance(first, t.Sym) and first.letter in DIFFERENTIALS and isinstance(
                second, t.Sym | t.Scripted | t.Word):
            return self.subject(second)
        return None


def is_letter(item: Item) -> bool:
    node = item.node.base if isinstance(item.node, t.Scripted) else item.node
    return item.text is not None and isinstance(node, t.Sym) and not isinstance(item.node, t.Num)


def _key(base: t.Node, names: Sequence[str]) -> str:
    return (node_key(base) or "") + (f"_{{{','.join(names)}}}" if names else "")
