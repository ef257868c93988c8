"""One gradient, step by step: in the terminal, and in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, replace

from derive.document.backward import backward_section
from derive.document.forms import Maker
from derive.document.html import fragment
from derive.document.plain import plain_text
from derive.document.record import Entry
from derive.document.sections import forward_section
from derive.document.tree import Section, Words
from derive.errors import unknown_name
from derive.messages import catalogue
from derive.program import Program
from derive.symbols import Style


@dataclass(frozen=True)
class Explanation:
    """The way from the loss to one gradient; prints itself."""

    section: Section
    words: Words

    def __str__(self) -> str:
        return plain_text(self.section)

    def _repr_html_(self) -> str:
        return fragment(self.section, self.words)


def explain(
    program: Program, name: str, *, lang: str = "en", style: Style | None = None
) -> Explanation:
    """Just that gradient, step by step: the forward equations on its way and its adjoints.

    Args:
        program: a derived program.
        name: a tensor that it has a gradient of, such as "W1".

    Raises:
        DeclarationError: there is no gradient of that name.
    """
    if name not in program.gradients:
        raise unknown_name("gradient", name, program.gradients)
    catalogue(lang)
    style = style or Style()
    words = Words(lang, style.adjoint)
    maker = Maker(program, words, "standard", style)
    maker.appendix = False
    needed = program.only(program.gradients[name])
    on_the_way = {eq.name for eq in needed.equations}
    adjoints = _needed_adjoints(maker, on_the_way, name)
    on_the_way |= {
        use.source.name for entry in maker.story
        if isinstance(entry, Entry) and entry.name in adjoints for use in entry.uses
    }
    forward = forward_section(maker, on_the_way)
    backward = backward_section(maker, adjoints)
    title = words("backward.gradient", symbol=maker.symbol(name))
    inner = tuple(replace(s, level=2) for s in (forward, backward))
    return Explanation(Section(title, f"explain-{name}", 1, inner), words)


def _needed_adjoints(maker: Maker, on_the_way: set[str], name: str) -> set[str]:
    """Adjoints that the gradient is made of, those put in where they are used included."""
    wanted = set(on_the_way)
    told = {e.name: e for e in maker.story if isinstance(e, Entry)}
    by_tensor = {e.of: e for e in told.values()}
    stack = [maker.program.gradients[name]]
    seen: set[str] = set()
    while stack:
        entry = told.get(stack.pop())
        if entry is None or entry.name in seen:
            continue
        seen.add(entry.name)
        wanted.add(entry.name)
        stack += [by_tensor[u.source.name].name for u in entry.uses if u.source.name in by_tensor]
    return wanted
