"""``chainrule doctor``: what is here, what is missing, and the command that brings it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from derive.errors import MissingError


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``state`` is ok, missing (an extra) or broken (the core needs it)."""

    what: str
    state: str
    detail: str
    mend: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


_CORE = ("sympy", "numpy", "scipy", "numba", "jinja2", "rich", "safetensors")
_EXTRA = {
    "scikit-learn": "the data sets of `chainrule tour` and `train --data digits`",
    "matplotlib": "plots of loss and accuracy",
    "pyarrow": "Parquet files as data",
    "optuna": "`chainrule search`",
    "lark": "gradients handed in as LaTeX",
    "mpi4py": "training over MPI",
}


def examine() -> list[Finding]:
    """All findings, in the order in which they are printed."""
    found = [Finding("Python", "ok" if sys.version_info >= (3, 11) else "broken",
                     f"{platform.python_version()} on {os.cpu_count()} cores",
                     "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")]
    found += [_package(name, "broken", "") for name in _CORE]
    found += [_package(name, "missing", use) for name, use in _EXTRA.items()]
    found += [_own_package(name) for name in ("derive", "codegen")]
    found.append(_templates())
    found.append(_program("pdflatex", "PDF documents",
                          "apt-get install texlive-latex-recommended texlive-latex-extra"))
    found.append(_program("xelatex", "PDF documents in Chinese",
                          "apt-get install texlive-xetex texlive-lang-chinese"))
    found.append(_program("mpiexec", "training over MPI", "python -m pip install mpi4py mpich"))
    found += _gpu()
    found.append(_cache())
    return found


def _package(name: str, otherwise: str, use: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, otherwise, f"not installed{': ' + use if use else ''}",
                       f"python -m pip install {name}")
    return Finding(name, "ok", version)


def _own_package(name: str) -> Finding:
    """A foreign distribution of the same import name may stand in the way."""
    spec = find_spec(name)
    own = Path(__file__).resolve().parent.parent / name
    where = Path(spec.origin).resolve().parent if spec and spec.origin else None
    if where != own:
        return Finding(f"import {name}", "broken", f"another package answers to it: {where}",
                       f"python -m pip uninstall {name}, then install chainrule again")
    return Finding(f"import {name}", "ok", "ours")


def template_folder() -> Path | None:
    """Where the templates lie: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return next((p for p in (here / "templates", here.parent / "templates") if p.is_dir()), None)


def _templates() -> Finding:
    folder = template_folder()
    if folder is None or not any(folder.glob("*.jinja")):
        return Finding("templates", "broken", "not found beside the packages",
                       "python -m pip install --force-reinstall chainrule")
    return Finding("templates", "ok", f"{len(list(folder.glob('*.jinja')))} files")


def _program(name: str, use: str, mend: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(name, "missing", f"not found: {use}", mend)
    return Finding(name, "ok", "found")


def _gpu() -> list[Finding]:
    """The driver, the package that compiles for a GPU, and the device that would be used."""
    from codegen.cuda_device import INSTALL, driver, find_device, package

    found = [Finding("NVIDIA driver", "ok", driver()) if driver() else
             Finding("NVIDIA driver", "missing", "no device: kernels run on the CPU")]
    version = package()
    if version is None:
        return [*found, Finding("numba-cuda", "missing", "not installed: kernels for a GPU",
                                INSTALL)]
    found.append(Finding("numba-cuda", "ok", ", ".join([version, *_beside()])))
    try:
        return [*found, Finding("GPU", "ok", str(find_device()))]
    except MissingError as error:
        return [*found, Finding("GPU", "missing", str(error.got or error.what),
                                error.mend or "")]


def _beside() -> list[str]:
    """The versions of what numba-cuda works with, as far as they are Python packages."""
    names = sorted({d.name for d in importlib.metadata.distributions()
                    if d.name and d.name.startswith(("cuda-bindings", "nvidia-nvvm",
                                                     "nvidia-cuda-nvcc", "nvidia-nvjitlink"))})
    return [f"{name} {importlib.metadata.version(name)}" for name in names]


def _cache() -> Finding:
    folder = Path(os.environ.get("CHAINRULE_CACHE") or
                  Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chainrule")
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK):
        return Finding("kernel cache", "ok", "writable")
    return Finding("kernel cache", "broken", "not writable",
                   "set CHAINRULE_CACHE to a folder of yours")
