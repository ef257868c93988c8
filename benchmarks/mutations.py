"""Verdicts on thousands of wrong and of rewritten right gradients.

    python benchmarks/mutations.py                       # everything, the table at the end
    python benchmarks/mutations.py --share 0.1 --jobs 2 --json /tmp/found.jsonl
    python benchmarks/mutations.py --located 0 --json /tmp/found.jsonl    # verdicts only
    python benchmarks/mutations.py --read /tmp/found.jsonl                # the tables

With ``--json`` each case is written down when it is done; the same command again goes on where it
was stopped. Asked for places, the same file gets those cases anew, and the later ones count.

Every right gradient of the tests (tests/derive/verify_gradients*.py) is changed by every kind of
`mutation_catalogue` at every place, at a gradient scale between 1e-8 and 1e8, and handed to
`dr.verify`. Changes that change no value (50 digits, three points, two sizes) are left out and
counted. Rewritten right gradients (`mutation_variants`) must not be called wrong.

Detected: the verdict is "wrong", or the function is refused with an error that says why.
Localised, asked of those with the verdict "wrong": the parameters named are those whose gradients
are wrong and no others, and for each the report either cites the changed line of the function or
names one change of the derivation (a factor, a term, a sign, a tensor in another's place, which
entries) that makes the right gradient the one handed in. "So many entries differ, in no pattern"
is not localised. A report that cites another line counts apart: only if the function with the line
that the report prints is right at 50 digits, so that the mistake may as well be there. The rules of
three other checkers are in `mutation_support.Rules`.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import json
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    wrong_exactly,
)
from mutation_variants import rewritten

import derive as dr
from derive.verify.hand import HandError

checking = import_module("derive.check")  # `derive.check` itself is the function
verifying = import_module("derive.verify")
_SEARCH = "_findings"

SCALES = ((0, -4, 6), (-2, 4, -8), (2, -6, 8))  # powers of ten; each network gets three of them
Key = tuple[str, int, bool]  # network, number of the case, whether its place was asked for
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


def located(report: Any, mutant: Mutant, one: Hand, found: Effect, power: int = 0
            ) -> tuple[str, str]:
    """"line", "change", "mend" (another line, with whose correction all is right), "parameter"
    (only they are right) or "nothing"; and what was said."""
    said = " | ".join(f"{f.parameter}: {f.words}" for f in report.findings)
    named, wrong = {f.parameter for f in report.findings}, set(found.wrong)
    if named != wrong:
        try:
            exactly = wrong_exactly(mutant.tree, one)
        except Exception:  # it does not run at 50 digits
            return "nothing", said
        if not named - wrong <= exactly or exactly & (wrong - named):
            return "nothing", said
    numbers = "|".join(map(str, changed_lines(mutant, one)))
    at = re.compile(rf"(line |<hand \d+>:)({numbers})\b")
    if all(at.search(str(f)) for f in report.findings):
        return "line", said
    if not any(_CLUELESS.search(f.words) for f in report.findings):
        return "change", said
    return ("mend" if _mended(report, mutant, one, power) else "parameter"), said


def _mended(report: Any, mutant: Mutant, one: Hand, power: int) -> bool:
    """Whether the function is right at 50 digits with the lines that the report prints."""
    lines = source_of(mutant.tree, power).splitlines()
    for finding in report.findings:
        place = re.match(r"line (\d+):", finding.place)
        if not place or not finding.mended:
            return False
        old = lines[int(place[1]) - 1]
        lines[int(place[1]) - 1] = old[:len(old) - len(old.lstrip())] + finding.mended
    last = re.sub(r"return _scaled\((.*)\)$", r"return \1", lines[-1])
    try:
        return effect(ast.parse("\n".join([*lines[:-1], last])), one).kind == "equal"
    except SyntaxError:
        return False


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


def mutation_records(one: Hand, part: float, searched: float = 1.0,
                     done: frozenset[Key] = frozenset(), kinds: tuple[str, ...] = ()
                     ) -> Iterator[dict[str, Any]]:
    """What becomes of each mutant of one right gradient; of a part of them with its place."""
    every = [(n, m) for n, m in enumerate(mutants(one.tree)) if not kinds or m.kind in kinds]
    chosen = share(every, part, len(one.name))
    with_place = {n for n, _ in share(chosen, searched, len(one.name))} if searched else set()
    for number, mutant in chosen:
        place = number in with_place
        if (one.name, number, place) in done or (one.name, number, True) in done:
            continue
        found = effect(mutant.tree, one)
        power = _power(one, number)
        record = {"network": one.name, "number": number, "asked": place, "kind": mutant.kind,
                  "effect": found.kind, "size": found.size, "line": mutant.line,
                  "before": mutant.before[:120], "after": mutant.after[:120], "scale": power}
        if found.kind in ("equal", "unclear"):
            yield record
            continue
        function = compiled(source_of(mutant.tree, power), one.main, power)
        start = time.process_time()
        with verdict_only(not place):
            record["verdict"], report = verdict_of(scaled(one.name, power), function)
        record["seconds"] = time.process_time() - start
        if found.kind == "differs":
            record["wrong"] = list(found.wrong)
            plain = compiled(source_of(mutant.tree), one.main)
            given = values(plain, one.parameters, points(one.name)[0])
            record.update(rules(one.name).detects(given, 10.0**power))
            if record["verdict"] == "wrong" and place:
                record["located"], record["said"] = located(report, mutant, one, found, power)
            elif record["verdict"] != "wrong":
                record["said"] = str(report)[:200]
        yield record


def _power(one: Hand, number: int) -> int:
    return SCALES[sum(map(ord, one.name)) % 3][number % 3]


def variant_records(one: Hand, count: int, done: frozenset[Key] = frozenset()
                    ) -> Iterator[dict[str, Any]]:
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
        if (one.name, -1 - seed, False) in done:
            continue
        power = _power(one, seed)
        function = compiled(source_of(tree, power), one.main, power)
        start = time.process_time()
        verdict, report = verdict_of(scaled(one.name, power), function)
        record = {"network": one.name, "number": -1 - seed, "asked": False, "kind": "right",
                  "effect": "equal", "seed": seed,
                  "scale": power, "verdict": verdict, "said": str(report)[:600],
                  "seconds": time.process_time() - start,
                  "exactly": getattr(report, "verdict", "")}
        plain = values(compiled(source, one.main), one.parameters, points(one.name)[0])
        record.update(rules(one.name).detects(plain, 10.0**power))
        if verdict != "ok":
            record["source"] = source
        yield record


def measure(task: tuple[str, float, float, int, Path | None, tuple[str, ...]]
            ) -> list[dict[str, Any]]:
    """All cases of one right gradient that are not in the file yet; each is written when done."""
    name, part, searched, variants, path, kinds = task
    checking.Slopes = OnceSlopes
    one, done, found = hand(name), frozenset(_known(path)), []
    for record in itertools.chain(mutation_records(one, part, searched, done, kinds),
                                  variant_records(one, variants, done)):
        found.append(record)
        if path:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    return found


def _known(path: Path | None) -> dict[Key, dict[str, Any]]:
    """The cases of a file by network, number and whether the place was asked for; the last line of
    a run that was killed may be half a line."""
    found = {}
    for line in path.read_text().splitlines() if path and path.exists() else ():
        with suppress(json.JSONDecodeError):
            record = json.loads(line)
            found[record["network"], record["number"], record["asked"]] = record
    return found


def _latest(path: Path) -> list[dict[str, Any]]:
    """Each case once: with its place, where that was asked for."""
    known = _known(path)
    return [r for (name, number, asked), r in known.items()
            if asked or (name, number, True) not in known]


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
        _localisation("localised, of the kinds and networks held out", held), _times(wrong),
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
    both = named + places["mend"]
    return (f"{title}: {both} of {len(judged)} ({_percent(both, len(judged))}, "
            f"{_interval(both, len(judged))}): {places['line']} by line, {places['change']} by the "
            f"change ({_percent(named, len(judged))}, {_interval(named, len(judged))}), "
            f"{places['mend']} by another line that mends all; only the parameters "
            f"{places['parameter']}, wrong parameters {places['nothing']}")


def _interval(part: int, whole: int) -> str:
    """Wilson's 95 % interval of a share (Wilson, J. Am. Stat. Assoc. 1927)."""
    if not whole:
        return "-"
    z, p = 1.96, part / whole
    middle, half = p + z**2 / (2 * whole), z * (p * (1 - p) / whole + z**2 / (4 * whole**2))**0.5
    low, high = ((middle + s * half) / (1 + z**2 / whole) for s in (-1, 1))
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _times(wrong: list[dict[str, Any]]) -> str:
    seconds = sorted(r["seconds"] for r in wrong if "located" in r)
    if not seconds:
        return "no place was asked for"
    return (f"CPU seconds of a report: median {statistics.median(seconds):.1f}, mean "
            f"{statistics.mean(seconds):.1f}, 95 % below {seconds[int(0.95 * len(seconds))]:.1f}, "
            f"at most {seconds[-1]:.1f}")


_CHECKERS = ("torch", "jax", "pytensor")


def _row(name: str, rows: list[dict[str, Any]]) -> str:
    judged = [r for r in rows if "located" in r]
    named = sum(r["located"] in ("line", "change", "mend") for r in judged)
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
    parser.add_argument("--kinds", nargs="*", default=(), help="of mistakes, of which all then")
    parser.add_argument("--only", nargs="*", default=(), help="names of right gradients")
    parser.add_argument("--json", type=Path, help="a file for one line for each case")
    parser.add_argument("--read", type=Path, help="only print the tables of such a file")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    if options.read:
        print(summary(_latest(options.read)))
        return
    tasks = [(one.name, options.share, options.located, options.variants, options.json,
              tuple(options.kinds))
             for one in hands(tuple(options.only))]
    records: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for task, found in zip(tasks, pool.imap(measure, tasks), strict=True):
            records += found
            bad = [r for r in found if r["kind"] != "right" and r["effect"] == "differs"
                   and not _detected(r)]
            print(f"{task[0]}: {len(found)} cases, {len(bad)} undetected", flush=True)
    print(summary(_latest(options.json) if options.json else records))


if __name__ == "__main__":
    main()
