"""How parameters start: the schemes by name, and what their declarations mean.

A declaration is "auto", a number (the standard deviation of a normal), "zeros", "ones",
"constant 0.1", "uniform 0.05" (between -0.05 and 0.05), or a scheme of `SCHEMES`, whose scale
follows from the fans: how many values a sum with the weight adds up, and how many sums an element
of the other factor enters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from derive.errors import DeclarationError, nearest

PLAIN = ("auto", "zeros", "ones")
WITH_NUMBER = ("constant", "uniform")


@dataclass(frozen=True)
class Scheme:
    """``kind`` is normal, uniform or orthogonal; ``variance`` of the fans in and out."""

    kind: str
    variance: Callable[[int, int], float]
    source: str


SCHEMES = {
    "xavier": Scheme("normal", lambda i, o: 2 / (i + o), "Glorot and Bengio 2010"),
    "xavier_uniform": Scheme("uniform", lambda i, o: 2 / (i + o), "Glorot and Bengio 2010"),
    "he": Scheme("normal", lambda i, o: 2 / i, "He et al. 2015"),
    "he_uniform": Scheme("uniform", lambda i, o: 2 / i, "He et al. 2015"),
    "lecun": Scheme("normal", lambda i, o: 1 / i, "LeCun et al. 1998"),
    "lecun_uniform": Scheme("uniform", lambda i, o: 1 / i, "LeCun et al. 1998"),
    "orthogonal": Scheme("orthogonal", lambda i, o: 1 / max(i, o), "Saxe et al. 2014"),
}


def checked_initial(text: str) -> str:
    """A declaration in words, in one form.

    Raises:
        DeclarationError: no such scheme (the nearest is suggested), or its number is missing.
    """
    word, _, number = text.strip().partition(" ")
    if word in WITH_NUMBER:
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (word == "uniform" and value <= 0):
            raise DeclarationError(f"initial {text!r} needs a number", expected=f'"{word} 0.1"')
        return f"{word} {value!r}"
    if text in PLAIN or text in SCHEMES:
        return text
    guess = nearest(text, [*PLAIN, *SCHEMES, *WITH_NUMBER])
    raise DeclarationError(
        f"there is no initialisation {text!r}",
        expected=", ".join([*PLAIN, *SCHEMES, '"constant 0.1"', '"uniform 0.05"'])
        + ", or the standard deviation of a normal",
        mend=f"did you mean {guess!r}?" if guess else None)
