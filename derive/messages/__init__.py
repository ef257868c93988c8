"""The words of documents, one module for each language: a further language is one further file."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path

from derive.errors import DeclarationError, nearest


def languages() -> tuple[str, ...]:
    """The languages that there is a catalogue for."""
    here = Path(__file__).parent
    return tuple(sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_")))


@lru_cache(maxsize=8)
def catalogue(lang: str) -> dict[str, str]:
    """All messages of a language.

    Raises:
        DeclarationError: there is no such catalogue.
    """
    known = languages()
    if lang not in known:
        guess = nearest(lang, known)
        raise DeclarationError(
            f"there is no document in the language {lang!r}", expected="one of " + ", ".join(known),
            mend=f"did you mean {guess!r}?" if guess else None,
        )
    return dict(import_module(f"derive.messages.{lang}").MESSAGES)


def message(lang: str, key: str, **values: object) -> str:
    """A message with its places filled: ``{name}`` in the text."""
    text = catalogue(lang)[key]
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text
