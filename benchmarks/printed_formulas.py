"""Every formula in the documents of the examples and of the gallery, read again from its LaTeX.

python benchmarks/printed_formulas.py [NAME …]      prints a table as the page on documents has it

Documents at the level "full". Each formula is read by the strict grammar of `derive.tex` (∗ and ⋆
by the definitions that a document prints for them, contractions by NumPy's einsum) and compared
with the derived program at a random point. Formulas in sentences of the catalogue of messages
belong to no program: they are counted on the other side only, where the MathML of every formula,
and the SVG of every label of a picture, is compared with its LaTeX.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "docs")]

import gallery  # noqa: E402

import derive as dr  # noqa: E402
from derive.program import Program  # noqa: E402
from tests.remembered import Printed, printed  # noqa: E402
from tests.reread import Different, second_outputs, verdicts  # noqa: E402


def programs(names: list[str]) -> Iterator[tuple[str, Program, dict[str, Any]]]:
    """Each derived program, with the options of its document."""
    for entry in gallery.ENTRIES:
        if not names or entry.name in names:
            options = {k: v for k, v in entry.options.items() if k != "check"}
            yield entry.name, dr.derive(entry.network()), {**options, "detail": "full"}
    for path in gallery.scripts():
        for name, program in gallery.derivations(path):
            if not names or name in names or path.stem in names:
                yield name, program, {"detail": "full"}


def show(name: str, counted: Counter[str]) -> None:
    """A row of the table."""
    read = [counted[said] for said in ("equal", "not read", "different")]
    other = [counted[said] for said in ("the same", "another")]
    numbers = [sum(read), *read, sum(other), *other]
    print(f"| {name} | {' | '.join(map(str, numbers))} |", flush=True)


def main() -> None:
    total: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    heads = ("document", "printed", "read and equal", "not read", "different", "MathML or SVG",
             "the same", "another")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    start = time.perf_counter()
    for name, program, options in programs(sys.argv[1:]):
        _, found = printed(program, **options)
        here: Counter[str] = Counter()

        def count(item: Printed, said: str, trouble: Exception | None, name: str = name,
                  here: Counter[str] = here) -> None:
            here[said] += 1
            kinds[item.kind, said] += 1
            if trouble is not None:
                print(f"{name}: {item.kind}: {item.latex}: {trouble}", file=sys.stderr)

        for item, trouble in verdicts(program, found, options.get("style"), options.get("values")):
            said = "equal" if trouble is None else \
                "different" if isinstance(trouble, Different) else "not read"
            count(item, said, trouble)
        for item, trouble in second_outputs(found):
            count(item, "the same" if trouble is None else "another", trouble)
        total += here
        show(name, here)
    show("all", total)
    print()
    for (kind, said), number in sorted(kinds.items()):
        print(f"{kind}: {number} {said}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
