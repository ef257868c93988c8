"""Every formula in the documents of the examples and of the gallery, read again from its LaTeX.

python benchmarks/printed_formulas.py [NAME …]      prints a table as the page on documents has it

Documents at the level "full". Formulas that are words of the catalogue of messages belong to no
program and are not counted; a convolution's ∗ and ⋆ are evaluated from their notation, contractions
by NumPy's einsum as they stand, everything else is read by the strict grammar of `derive.tex`.
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
from tests.reread import Different, printed, verdicts  # noqa: E402


def programs(names: list[str]) -> Iterator[tuple[str, Program, dict[str, Any]]]:
    """Each derived program, with the options of its document."""
    for entry in gallery.ENTRIES:
        if not names or entry.name in names:
            options = {k: v for k, v in entry.options.items() if k != "check"}
            yield entry.name, dr.derive(entry.network()), {**options, "detail": "full"}
    for path in sorted(gallery.EXAMPLES.glob("*.py")):
        if names and path.stem not in names:
            continue
        net = gallery.example(path)
        for loss in net.program().losses if net is not None else ():
            yield f"{path.stem} {loss}", dr.derive(net, of=loss), {"detail": "full"}


def main() -> None:
    total: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    print("| document | printed | read and equal | not read | different |\n|---|---|---|---|---|")
    start = time.perf_counter()
    for name, program, options in programs(sys.argv[1:]):
        _, found = printed(program, **options)
        here: Counter[str] = Counter()
        for item, trouble in verdicts(program, found, options.get("style"), options.get("values")):
            said = "equal" if trouble is None else \
                "different" if isinstance(trouble, Different) else "not read"
            here[said] += 1
            kinds[item.kind, said] += 1
            if trouble is not None:
                print(f"{name}: {item.kind}: {item.latex}: {trouble}", file=sys.stderr)
        total += here
        print(f"| {name} | {sum(here.values())} | {here['equal']} | {here['not read']} | "
              f"{here['different']} |", flush=True)
    print(f"| all | {sum(total.values())} | {total['equal']} | {total['not read']} | "
          f"{total['different']} |\n")
    for (kind, said), count in sorted(kinds.items()):
        print(f"{kind}: {count} {said}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
