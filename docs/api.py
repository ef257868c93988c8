"""The pages of the API: one for each module that has public names, from the tables that the
packages themselves load names by.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import codegen
import derive

PACKAGES = {
    "derive": derive._HOME,
    "codegen": {m: [n for n, home in codegen._WHERE.items() if home == m]
                for m in dict.fromkeys(codegen._WHERE.values())},
}


def write_pages(folder: Path) -> None:
    """``_api/*.md``: a page for each package, its modules in order."""
    out = folder / "_api"
    out.mkdir(exist_ok=True)
    for package, homes in PACKAGES.items():
        parts = [f"# {package}", (import_module(package).__doc__ or "").strip()]
        for module, names in homes.items():
            parts += [f"## {module}", _summary(module)]
            parts += [_entry(package, module, name) for name in names]
        write_if_new(out / f"{package}.md", "\n\n".join(parts) + "\n")


def _summary(module: str) -> str:
    doc = (import_module(module).__doc__ or "").strip()
    return doc.split("\n\n")[0].replace("\n", " ").replace("`", "*")


def _entry(package: str, module: str, name: str) -> str:
    thing = getattr(import_module(package), name)
    kind = "autoclass" if inspect.isclass(thing) else "autofunction" if callable(thing) \
        else "autodata"
    return f"```{{eval-rst}}\n.. {kind}:: {package}.{name}\n```"


def write_if_new(path: Path, text: str) -> None:
    """Sphinx builds again what has a new date: a file that is the same keeps its own."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
