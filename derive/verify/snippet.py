"""A counterexample as a program of a few lines: paste it, run it, see both numbers."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from derive.errors import ChainruleError
from derive.netwrite import write_network
from derive.verify.claim import Claim
from derive.verify.counterexample import Drawn, Entry, Smaller
from derive.verify.hand import Hand

_MOST = 2000  # numbers that are still printed
_WIDTH = 96
_OWN = ("np", "dr", "found", "values", "derivation")  # names that the program itself uses


def function_snippet(hand: Hand, smaller: Smaller) -> str:
    """The counterexample of a function. Empty where the point is too large to print."""
    result = hand.returned(smaller.point)
    values = {**hand.given(smaller.point), **smaller.values}
    arrays = _assignments({n: values[n] for n in hand.arguments or smaller.values})
    if arrays is None:
        return ""
    name = hand.label if hand.label.isidentifier() else "backward"
    lines = ["import numpy as np", "", *_brought(hand, name), *arrays,
             *_wrapped(f"found = {name}(", _call(hand), ")"), ""]
    order = list(hand.names)
    for entry in smaller.entries:
        if isinstance(result, Mapping):
            lines.append(_shown(entry, f'found["{entry.parameter}"]'))
        elif isinstance(result, tuple | list):
            lines.append(_shown(entry, f"found[{order.index(entry.parameter)}]"))
        else:
            lines.append(_shown(entry, "found"))
    return "\n".join(lines) + "\n"


def _call(hand: Hand) -> str:
    """The arguments with which it is called."""
    if hand.arguments is not None:
        return ", ".join(f"{n}={_variable(n)}" for n in hand.arguments)
    inner = {t.name for t in hand.program.parameters}
    names = [t.name for t in hand.program.given]
    return ", ".join("{" + ", ".join(f'"{n}": {_variable(n)}' for n in some) + "}" for some in (
        [n for n in names if n in inner], [n for n in names if n not in inner]))


def claim_snippet(claim: Claim, smaller: Smaller) -> str:
    """The counterexample of a written derivation: its equations as they were read, at the point.
    Empty where the point is too large to print, or the equations have no text."""
    targets = [claim.gradients[e.parameter] for e in smaller.entries]
    program = claim.program.only(*claim.program.losses, *targets)
    needed = [t.name for t in program.given]
    arrays = _assignments({n: smaller.values[n] for n in needed})
    try:
        text = write_network(program)
    except ChainruleError:
        return ""
    if arrays is None:
        return ""
    values = ", ".join(f'"{n}": {_variable(n)}' for n in needed)
    wanted = ", ".join(f'"{t}"' for t in targets)
    lines = ["import numpy as np", "", "import derive as dr", "",
             'derivation = dr.parse_network("""\\', *text.rstrip().splitlines(), '""")', *arrays,
             *_wrapped("values = {", values, "}"),
             f"found = dr.evaluate(derivation.program(), values, [{wanted}])", ""]
    lines += [_shown(e, f'found["{t}"]') for e, t in zip(smaller.entries, targets, strict=True)]
    return "\n".join(lines) + "\n"


def _shown(entry: Entry, where: str) -> str:
    at = f"[{', '.join(map(str, entry.place))}]" if entry.place else ""
    return (f'print("{entry.parameter}{at}: yours", float({where}{at}), "right", '
            f"{float(f'{entry.right:.15g}')!r})")


def _brought(hand: Hand, name: str) -> list[str]:
    """How the function comes into the program."""
    module = hand.module
    if not module:
        return [f"# {name}: your function, as it is defined", ""]
    if module.endswith(".py"):
        path = Path(module)
        return [f"from {path.stem} import {name}  # in the folder of {path.name}", ""]
    return [f"from {module} import {name}", ""]


def _variable(name: str) -> str:
    """A tensor's name as a variable of the program."""
    return name + "_" if keyword.iskeyword(name) or name in _OWN else name


def _assignments(values: Mapping[str, np.ndarray | Drawn]) -> list[str] | None:
    """A line for each array; None where they are too large to print."""
    listed = sum(np.size(v) for v in values.values() if not isinstance(v, Drawn))
    if listed > _MOST:
        return None
    return [line for n, v in values.items() for line in _array(f"{_variable(n)} = ", v)]


def _array(head: str, value: np.ndarray | Drawn) -> list[str]:
    if isinstance(value, Drawn):
        made = f"np.random.RandomState({value.seed}).randint({value.low}, {value.high}, " \
            f"{value.shape})"
        if value.shares:
            made = f"(lambda w: w / w.sum(axis=-1, keepdims=True))({made})"
        return [head + made + (f" / {value.divisor}" if value.divisor != 1 else "")]
    array = np.asarray(value)
    if array.size > 1 and array.dtype.kind == "f" and not array.any():
        return [f"{head}np.zeros({array.shape if array.ndim != 1 else array.shape[0]})"]
    return _rows(f"{head}np.array(", array.tolist(), ")")


def _rows(head: str, value: Any, tail: str) -> list[str]:
    """A nested list behind a head, a row a line where it is too long for one."""
    whole = f"{head}{value!r}{tail}"
    if len(whole) <= _WIDTH or not isinstance(value, list):
        return [whole]
    if not isinstance(value[0], list):
        return _wrapped(f"{head}[", ", ".join(map(repr, value)), f"]{tail}")
    lines: list[str] = []
    for n, row in enumerate(value):
        start = f"{head}[" if n == 0 else " " * (len(head) + 1)
        lines += _rows(start, row, f"]{tail}" if n == len(value) - 1 else ",")
    return lines


def _wrapped(head: str, text: str, tail: str) -> list[str]:
    """Text in brackets, over several lines where it is long."""
    return textwrap.wrap(head + text + tail, _WIDTH, subsequent_indent=" " * len(head),
                         break_long_words=False, break_on_hyphens=False)
