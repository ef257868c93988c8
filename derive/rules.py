"""The catalogue of rules: what each ``Step.rule`` is called, what it says, and why it holds.

The words stand in `derive.messages`, one file for each language; the keys stand here, and every
rule that a derivation can record has one. ``chain:tanh`` and the like share the entry ``chain``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from derive.messages import message


@dataclass(frozen=True)
class Rule:
    """A rule by its key; texts may contain formulas between dollar signs."""

    key: str

    def title(self, lang: str = "en") -> str:
        return message(lang, f"rule.{self.key}.title")

    def says(self, lang: str = "en") -> str:
        return message(lang, f"rule.{self.key}.says")

    def proof(self, lang: str = "en") -> str:
        return message(lang, f"rule.{self.key}.proof")


_KEYS = (
    "seed", "linear", "product", "power", "select", "chain", "softmax", "ties", "prod",
    "indices", "accumulate", "matrix", "collect", "constant", "copy", "adjoint", "recursion",
    "name",
)  # fmt: skip


class _Catalogue(Mapping[str, Rule]):
    """Rules by key; ``chain:…`` is found under ``chain``."""

    def __init__(self) -> None:
        self._rules = {key: Rule(key) for key in _KEYS}

    def __getitem__(self, key: str) -> Rule:
        return self._rules[key.split(":")[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)


RULES: Mapping[str, Rule] = _Catalogue()
