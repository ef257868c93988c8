"""The skeletons of documents: Jinja templates and the style sheet, wherever they are installed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_HERE = Path(__file__).resolve().parent.parent.parent
# in the source tree beside the package; in a wheel inside the other package
_PLACES = (_HERE / "codegen" / "templates", _HERE / "templates")


@lru_cache(maxsize=1)
def _folder() -> Path:
    return next(p for p in _PLACES if (p / "document.html.jinja").is_file())


@lru_cache(maxsize=4)
def _environment(html: bool) -> Environment:
    loader = FileSystemLoader(_folder())
    if html:
        return Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
    # TeX is full of braces: other delimiters
    return Environment(
        loader=loader, undefined=StrictUndefined, autoescape=False, block_start_string="<%",
        block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
        comment_start_string="<#", comment_end_string="#>", keep_trailing_newline=True,
        trim_blocks=True,
    )


def render(name: str, **values: object) -> str:
    """A template with its places filled; an unknown place is an error."""
    return _environment(".html." in name).get_template(name).render(**values)


@lru_cache(maxsize=4)
def resource(name: str) -> str:
    """The text of a file beside the templates."""
    return (_folder() / name).read_text(encoding="utf-8")
