"""Verdicts on thousands of wrong and of rewritten right gradients.

    python benchmarks/mutations.py                       # everything, the table at the end
    python benchmarks/mutations.py --share 0.1 --jobs 2 --json /tmp/found.jsonl

Every right gradient of the tests (tests/derive/verify_gradients*.py) is changed by every kind of
`mutation_catalogue` at every place, at a gradient scale between 1e-8 and 1e8, and handed to
`dr.verify`. Changes that change no value (50 digits, three points, two sizes) are left out and
counted. Rewritten right gradients (`mutation_variants`) must not be called wrong.

Detected: the verdict is "wrong", or the function is refused with an error that says why.
Localised, asked of those with the verdict "wrong": the parameters named are those whose gradients
are wrong and no others, and for each the report either cites the changed line of the function or
names one change of the derivation (a factor, a term, a sign, a tensor in another's place, which
entries) that makes the right gradient the one handed in. "So many entries differ, in no pattern"
is not localised. The rules of three other checkers are in `mutation_support.Rules`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import multiprocessing
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from mutation_catalogue import HELD_OUT_KINDS, HELD_OUT_NETWORKS, Mutant, mutants
from mutation_support import (
    Effect,
    Hand,
    compiled,
    effect,
    hand,
    hands,
    points,
    rules,
    scaled,
    share,
    source_of,
    values,
)
from mutation_variants import rewritten

import derive as dr
from derive.verify.hand import HandError

checking = import_module("derive.check")  # `derive.check` itself is the function
verifying = import_module("derive.verify")
_SEARCH = "_findings"

SCALES = ((0, -4, 6), (-2, 4, -8), (2, -6, 8))  # powers of ten; each network gets three of them
_CLUELESS = re.compile(r"entries differ$|in no pattern|no single change|undecided")


class OnceSlopes(checking.Slopes):  # type: ignore[name-defined, misc]
    """Numeric derivatives remembered by program and point: a thousand gradients of one network are
    compared with the same numbers."""

    known: dict[Any, Any] = {}

    def __new__(cls, program: Any, of: str, given: Any, *rest: Any, **options: Any) -> OnceSlopes:
        key = (program.hash, of, tuple(sorted((n, np.asarray(a).tobytes())
                                              for n, a in given.items())))
        if key not in cls.known:
            cls.known[key] = super().__new__(cls)
        return cls.known[key]

    def __init__(self, *args: Any, **options: Any) -> None:
        if not hasattr(self, "answers"):
            self.answers: dict[Any, Any] = {}
            super().__init__(*args, **options)

    def along(self, name: str, direction: np.ndarray) -> Any:
        key = name, direction.tobytes()
        if key not in self.answers:
            self.answers[key] = super().along(name, direction)
        return self.answers[key]


def verdict_of(program: Any, function: Any) -> tuple[str, Any]:
    """"ok", "wrong", "undecided" or "refused", and the report or the error."""
    try:
        report = dr.verify(program, function)
    except HandError as error:
        return "refused", error
    except Exception as error:  # a mistake of ours: it is counted as such
        return f"crash {type(error).__name__}", error
    return {0: "ok", 1: "wrong", 3: "undecided"}[report.exit_code], report


def changed_lines(mutant: Mutant, one: Hand) -> set[int]:
    """The lines of the mutant's text that the right function does not have."""
    texts = source_of(one.tree).splitlines(), source_of(mutant.tree).splitlines()
    steps = difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    return {line + 1 for what, _, _, start, end in steps if what != "equal"
            for line in range(start, max(end, start + 1))}


def located(report: Any, changed: set[int], found: Effect) -> tuple[str, str]:
    """"line", "change", "parameter" (only they are right) or "nothing"; and what was said."""
    said = " | ".join(f"{f.parameter}: {f.words}" for f in report.findings)
    if {f.parameter for f in report.findings} != set(found.wrong):
        return "nothing", said
    numbers = "|".join(map(str, changed))
    at = re.compile(rf"(line |<hand \d+>:)({numbers})\b")
    if all(at.search(str(f)) for f in report.findings):
        return "line", said
    if any(_CLUELESS.search(f.words) for f in report.findings):
        return "parameter", said
    return "change", said


@contextmanager
def verdict_only(on: bool) -> Iterator[None]:
    """The verdict without the search for the mistake, which takes most of the time."""
    before = getattr(verifying, _SEARCH, None)
    if on and before is not None:
        setattr(verifying, _SEARCH, lambda *args, **options: ())
    try:
        yield
    finally:
        if on and before is not None:
            setattr(verifying, _SEARCH, before)


def mutation_records(one: Hand, part: float, searched: float = 1.0) -> Iterator[dict[str, Any]]:
    """What becomes of each mutant of one right gradient; of a part of them with its place."""
    chosen = share(list(mutants(one.tree)), part, len(one.name))
    with_place = set(map(id, share(chosen, searched, len(one.name))))
    for number, mutant in enumerate(chosen):
        found = effect(mutant.tree, one)
        power = _power(one, number)
        record = {"network": one.name, "kind": mutant.kind, "effect": found.kind,
                  "size": found.size, "line": mutant.line, "before": mutant.before[:120],
                  "after": mutant.after[:120], "scale": power}
        if found.kind in ("equal", "unclear"):
            yield record
            continue
        function = compiled(source_of(mutant.tree, power), one.main, power)
        start = time.process_time()
        with verdict_only(id(mutant) not in with_place):
            record["verdict"], report = verdict_of(scaled(one.name, power), function)
        record["seconds"] = time.process_time() - start
        if found.kind == "differs":
            record["wrong"] = list(found.wrong)
            plain = compiled(source_of(mutant.tree), one.main)
            given = values(plain, one.parameters, points(one.name)[0])
            record.update(rules(one.name).detects(given, 10.0**power))
            if record["verdict"] == "wrong" and id(mutant) in with_place:
                record["located"], record["said"] = located(
                    report, changed_lines(mutant, one), found)
            elif record["verdict"] != "wrong":
                record["said"] = str(report)[:200]
        yield record


def _power(one: Hand, number: int) -> int:
    return SCALES[sum(map(ord, one.name)) % 3][number % 3]


def variant_records(one: Hand, count: int) -> Iterator[dict[str, Any]]:
    """What becomes of right gradients that are written differently."""
    seen: set[str] = set()
    for seed in range(4 * count):
        if len(seen) == count:
            return
        tree = rewritten(one.tree, seed)
        source = source_of(tree)
        if source in seen or effect(tree, one).kind != "equal":
            continue
        seen.add(source)
        power = _power(one, seed)
        function = compiled(source_of(tree, power), one.main, power)
        start = time.process_time()
        verdict, report = verdict_of(scaled(one.name, power), function)
        record = {"network": one.name, "kind": "right", "effect": "equal", "seed": seed,
                  "scale": power, "verdict": verdict, "said": str(report)[:600],
                  "seconds": time.process_time() - start,
                  "exactly": getattr(report, "verdict", "")}
        plain = values(compiled(source, one.main), one.parameters, points(one.name)[0])
        record.update(rules(one.name).detects(plain, 10.0**power))
        if verdict != "ok":
            record["source"] = source
        yield record


def measure(task: tuple[str, float, float, int]) -> list[dict[str, Any]]:
    """All records of one right gradient."""
    name, part, searched, variants = task
    checking.Slopes = OnceSlopes
    one = hand(name)
    return [*mutation_records(one, part, searched), *variant_records(one, variants)]


# -- the tables -------------------------------------------------------------------------------
def _percent(part: float, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def summary(records: list[dict[str, Any]]) -> str:
    """Detection, localisation and false alarms, as text."""
    right = [r for r in records if r["kind"] == "right"]
    changed = [r for r in records if r["kind"] != "right"]
    wrong = [r for r in changed if r["effect"] == "differs"]
    caught = [r for r in wrong if _detected(r)]
    refused = [r for r in changed if r["effect"] == "refused"]
    kinds = {r["kind"] for r in changed}
    held = [r for r in wrong if r["kind"] in HELD_OUT_KINDS or r["network"] in HELD_OUT_NETWORKS]
    lines = [
        f"{len({r['network'] for r in records})} right gradients, {len(kinds)} kinds of mistakes, "
        f"{len(changed)} mutants: {len(wrong)} wrong gradients, {len(refused)} that raise or "
        f"return no gradient, {sum(r['effect'] == 'equal' for r in changed)} that change no value "
        f"(left out), {sum(r['effect'] == 'unclear' for r in changed)} unclear (left out)",
        f"detected: {len(caught)} of {len(wrong)} ({_percent(len(caught), len(wrong))})"
        f", {sum(r['verdict'] == 'undecided' for r in wrong)} undecided; refused as they should: "
        f"{sum(r['verdict'] == 'refused' for r in refused)} of {len(refused)}",
        _localisation("localised", wrong),
        _localisation("localised, of the kinds and networks held out", held),
        f"rewritten right gradients: {len(right)}, "
        f"{sum(r['verdict'] in ('wrong', 'refused') for r in right)} called wrong, "
        f"{sum(r['verdict'] == 'undecided' for r in right)} undecided, "
        + ", ".join(f"{n} {v}" for v, n in Counter(
            r["exactly"] for r in right if r["exactly"]).most_common()),
        "crashes: " + str(sum(r.get("verdict", "").startswith("crash") for r in records)),
        "", _by_kind(wrong), "", _by_scale(wrong), "", _false_alarms(right)]
    return "\n".join(lines)


def _detected(record: dict[str, Any]) -> bool:
    return record["verdict"] in ("wrong", "refused")


def _localisation(title: str, wrong: list[dict[str, Any]]) -> str:
    judged = [r for r in wrong if "located" in r]
    places = Counter(r["located"] for r in judged)
    named = places["line"] + places["change"]
    return (f"{title}: {named} of {len(judged)} ({_percent(named, len(judged))}): "
            f"{places['line']} by line, {places['change']} by the change; only the parameters "
            f"{places['parameter']}, wrong parameters {places['nothing']}")


_CHECKERS = ("torch", "jax", "pytensor")


def _row(name: str, rows: list[dict[str, Any]]) -> str:
    judged = [r for r in rows if "located" in r]
    named = sum(r["located"] in ("line", "change") for r in judged)
    cells = [_percent(sum(map(_detected, rows)), len(rows)), _percent(named, len(judged)),
             *(_percent(sum(r[c] for r in rows), len(rows)) for c in _CHECKERS)]
    return f"{name:34} {len(rows):6} " + " ".join(f"{c:>10}" for c in cells)


_HEAD = f"{'':34} {'cases':>6} {'detected':>10} {'localised':>10} " + " ".join(
    f"{c:>10}" for c in _CHECKERS)


def _by_kind(wrong: list[dict[str, Any]]) -> str:
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for r in wrong:
        groups[r["kind"]].append(r)
    rows = [_row(k + (" *" if k in HELD_OUT_KINDS else ""), groups[k]) for k in sorted(groups)]
    return "\n".join([_HEAD, *rows, _row("all", wrong), "* kept for measuring only"])


def _by_scale(wrong: list[dict[str, Any]]) -> str:
    scales = sorted({r["scale"] for r in wrong})
    return "\n".join([_HEAD, *(_row(f"loss times 1e{s}", [r for r in wrong if r["scale"] == s])
                               for s in scales)])


def _false_alarms(right: list[dict[str, Any]]) -> str:
    counts = ", ".join(f"{c} {sum(r[c] for r in right)}" for c in _CHECKERS)
    return f"false alarms of the other rules among {len(right)} right gradients: {counts}"


@cache
def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants of each gradient")
    parser.add_argument("--located", type=float, default=1.0,
                        help="of these, for which the place is asked too (most of the time)")
    parser.add_argument("--variants", type=int, default=30, help="rewritten ones of each gradient")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=(), help="names of right gradients")
    parser.add_argument("--json", type=Path, help="a file for one line for each case")
    parser.add_argument("--read", type=Path, help="only print the tables of such a file")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    if options.read:
        print(summary([json.loads(s) for s in options.read.read_text().splitlines()]))
        return
    tasks = [(one.name, options.share, options.located, options.variants)
             for one in hands(tuple(options.only))]
    records: list[dict[str, Any]] = []
    start = time.process_time()
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for found in pool.imap_unordered(measure, tasks):
            records += found
            if options.json:
                with options.json.open("a") as file:
                    file.writelines(json.dumps(r) + "\n" for r in found)
            bad = [r for r in found if r["kind"] != "right" and r["effect"] == "differs"
                   and not _detected(r)]
            print(f"{found[0]['network']}: {len(found)} cases, {len(bad)} undetected", flush=True)
    print(summary(records))
    print(f"{time.process_time() - start:.0f} CPU seconds in this process")


if __name__ == "__main__":
    main()
