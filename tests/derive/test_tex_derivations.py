"""Derivations in LaTeX, as papers have them: proved, or wrong at the right line."""

from __future__ import annotations

import pytest

from derive.verify import verify
from tests.derive.tex_derivations import RIGHT, WRONG


@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_are_proved(name: str):
    network, text, options, verdict, _ = RIGHT[name]
    report = verify(network(), text, **options)
    assert report.verdict == verdict, str(report)


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_line_is_named(name: str):
    network, text, options, verdict, line = WRONG[name]
    report = verify(network(), text, seconds=0, **options)
    assert report.verdict == verdict, str(report)
    assert all(f.place.startswith(f"line {line}:") for f in report.findings), str(report)
