"""Formulas as they stand in print: proved, found wrong, or refused at the right place."""

from __future__ import annotations

import pytest

from derive.tex import LatexError
from derive.verify import verify
from tests.derive.tex_published import READ, REFUSED


@pytest.mark.parametrize("name", READ)
def test_what_is_printed_is_judged(name: str):
    network, text, names, verdict = READ[name]
    report = verify(network(), text, names=names, seconds=5 if verdict == "proved" else 0)
    assert report.verdict == verdict, str(report)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_shown(name: str):
    network, text, names, words, under = REFUSED[name]
    with pytest.raises(LatexError) as error:
        verify(network(), text, names=names, seconds=0)
    said = str(error.value)
    _, shown, caret, *_ = said.splitlines()
    assert words in said, said
    assert shown[caret.index("^"):].startswith(under), said
