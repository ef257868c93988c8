"""Emitted modules: rendered, written, loaded, cached.

The interface of an emitted module (``kernels.py``), which needs numpy and numba:

- tables: ``NETWORK, HASH, VERSION, DTYPE, PARAMETERS, STATES, INPUTS, SIZES, BATCH, MOMENTS,
  SETTINGS, INITIAL``, ``P`` (length of the flat parameter array);
- compiled functions ``forward, loss, gradient`` (``(parts, *sizes, p, d, s, n, w, *given)``),
  ``update(parts, step, settings, p, d, *moments)``, ``epoch(…)``;
- ``Model(threads=1)``: buffers ``p, d, moments, s``, named views ``parameters``, and
  ``initialize(seed)``, ``loss(**inputs)``, ``gradients(**inputs)``, ``forward(**inputs)``,
  ``step(**inputs)``, ``epoch(data, batch, order)``; `NotFinite` where a loss is NaN;
- ``self_test()`` and the command ``python kernels.py --self-test`` (exit code 0 or 1).

`codegen.model.Model` puts checks of the data, training and saving around it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from codegen.collection import uncollected
from codegen.cpu_parts import module_parts
from codegen.footprint import footprint_text
from codegen.kernelset import kernel_texts
from codegen.pipeline import Compiled
from derive import __version__
from derive.errors import DataError, DerivationError, MissingError
from derive.files import write_atomically

IMPORTS = frozenset({"ctypes", "cupy", "json", "llvmlite", "math", "numba", "numpy", "pathlib",
                     "sys", "time"})
FORBIDDEN = ("eval", "exec", "compile", "__import__")
__all__ = ["cache_folder", "kernel_texts", "load", "render", "write"]


@uncollected()
def render(compiled: Compiled, dtype: str = "float32", parallel: bool = True,
           filename: str = "kernels.py", cache: bool = False) -> str:
    """The text of an emitted module for the CPU."""
    memory = footprint_text(compiled, dtype) if "gradient" in compiled.entries else ""
    memory += windows_text(compiled, memory != "")
    return _filled("cpu", compiled, module_parts(compiled, parallel), dtype, filename, cache,
                   parallel=parallel, memory=memory)


def windows_text(compiled: Compiled, below: bool) -> str:
    """Which way each sum over windows goes, for the head of a module."""
    if not compiled.windows:
        return ""
    ways = ", ".join(f"{name} {way}" for name, way in compiled.windows)
    line = f"Sums over windows (products of packed ones, direct, or Winograd's tiles): {ways}."
    return ("\n" if below else "") + "\n".join(textwrap.wrap(line, 98))


@uncollected()
def render_cuda(compiled: Compiled, dtype: str = "float32", filename: str = "kernels.py",
                cache: bool = False, vendor: bool = False) -> str:
    """The text of an emitted module for a GPU; ``compiled`` is made for a device; ``vendor``:
    matrix products by cuBLAS, through cupy."""
    from codegen.cuda_parts import cuda_module_parts

    parts = cuda_module_parts(compiled, vendor)
    if compiled.storage:
        dtype = "float32"
    windows = any("= windowed(" in text for text in parts["kernels"])
    tiles = any("tile_product(" in text for text in parts["kernels"])
    uses = windows or tiles or any("tiled(" in text or "gemm_" in text for text in parts["kernels"])
    return _filled("cuda", compiled, parts, dtype, filename, cache, uses_products=uses,
                   uses_windows=windows, uses_tiles=tiles, vendor=vendor)


def _filled(target: str, compiled: Compiled, parts: dict[str, Any], dtype: str, filename: str,
            cache: bool, **more: Any) -> str:
    templates = environment()
    host = "\n\n\n".join([*parts.pop("tables"),
                          templates.get_template(f"{target}_host.py.jinja").render(
                              half=compiled.storage or "", parallel=more.get("parallel", False),
                              matrices=bool(parts.get("matrices"))).rstrip()])
    program = compiled.program
    text = templates.get_template(f"{target}.py.jinja").render(
        header=f"{program.name}: forward, backward and {compiled.optimizer.name}, compiled."
        .replace("\\", " ").replace('"""', "'''"),
        network=one_line(program.name), network_literal=repr(program.name), hash=program.hash,
        version=__version__, filename=one_line(filename), dtype=dtype, cache=cache,
        optimizer=compiled.optimizer.name, host=host, **parts, **more,
    ).rstrip() + "\n"
    inspect_text(text)
    return text


def inspect_text(text: str) -> None:
    """Parse what was rendered: it may import what a kernel needs, and execute no strings.

    Raises:
        DerivationError: the text is not of the kind that the templates make.
    """
    words = re.search(rf"(?<![.\w])({'|'.join(FORBIDDEN)})\b", text)  # as names of their own
    for node in ast.walk(ast.parse(text)) if words else _statements(ast.parse(text).body):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        wrong = [n for n in names if n.partition(".")[0] not in IMPORTS]
        if isinstance(node, ast.Name) and node.id in FORBIDDEN:
            wrong.append(node.id)
        if wrong:
            raise DerivationError(f"the emitted module would use {wrong[0]!r}",
                                  expected=", ".join(sorted(IMPORTS)),
                                  mend="report this: no network should bring it about")


def _statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Every statement, those inside others too: where an import may stand."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
            part = getattr(node, inner, ())
            yield from _statements(part if isinstance(part, list) else ())


def one_line(name: str) -> str:
    """A name as it may stand in a comment or a docstring."""
    return " ".join(name.replace("\\", " ").replace('"""', "'''").split())


def environment() -> Any:
    """Where templates are found, with an error for every name that one lacks."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).resolve().parent
    folders = [p for p in (here / "templates", here.parent / "templates") if p.is_dir()]
    if not folders:
        raise MissingError("the templates of emitted modules are not installed",
                           mend="python -m pip install --force-reinstall chainrule")
    return Environment(loader=FileSystemLoader(folders[:1]), undefined=StrictUndefined,
                       keep_trailing_newline=True, autoescape=False, trim_blocks=True,
                       lstrip_blocks=True)


def write(text: str, path: str | Path, force: bool = False) -> Path:
    """Write a module beside nothing of somebody else's.

    Raises:
        DataError: the file exists and was not written by this tool.
    """
    path = Path(path)
    if path.exists() and not force:
        try:
            head = path.read_text(encoding="utf-8")[:100_000]
        except (OSError, UnicodeDecodeError):
            head = ""
        if 'WRITTEN_BY = "chainrule"' not in head:
            raise DataError(
                f"the file {str(path)!r} exists and was not written by this tool",
                expected="a new name, or a module that chainrule wrote",
                mend="choose another name, or overwrite it with force=True (--force)",
            )
    write_atomically(path, text.encode("utf-8"))
    return path


def cache_path(directory: str | Path | None = None) -> Path:
    """Where compiled modules and measurements are kept, whether or not it is there."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(directory or os.environ.get("CHAINRULE_CACHE") or home / "chainrule")


def cache_folder(directory: str | Path | None = None) -> Path:
    """The folder of compiled modules; private, because what lies in it is executed.

    Raises:
        MissingError: it cannot be made, or belongs to somebody else.
    """
    folder = cache_path(directory)
    mend = "set CHAINRULE_CACHE to a folder of yours"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise MissingError(f"the kernel cache {folder} cannot be made: {error.strerror}",
                           mend=mend) from error
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise MissingError(f"the kernel cache {folder} belongs to another user", mend=mend)
    if not os.access(folder, os.W_OK):
        raise MissingError(f"the kernel cache {folder} is not writable", mend=mend)
    return folder


def load(text: str, directory: str | Path | None = None) -> ModuleType:
    """The module of a text, from a file in the cache so that a second start does not compile."""
    import llvmlite
    import numba
    import numpy

    versions = f"{numba.__version__} {llvmlite.__version__} {numpy.__version__} {sys.version}"
    key = hashlib.sha256(f"{versions}\n{text}".encode()).hexdigest()[:20]
    name = f"chainrule_kernels_{key}"
    if name in sys.modules:
        return sys.modules[name]
    path = cache_folder(directory) / f"{name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text.encode("utf-8"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: Numba's cache looks it up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _load_compiled(module)
    return module


def _load_compiled(module: ModuleType) -> None:
    """Load what was compiled before, callees (which stand first) before those that call them.

    LLVM puts a copy of a kernel into each function that calls it and optimises that copy once
    more, so that it may add in another order; of several copies in a process, the one that is
    loaded first serves all. Where a module is compiled that is the kernel itself. Without this, it
    would be a copy wherever the module is found compiled: other bits in a second run.
    """
    from numba.core.registry import CPUDispatcher

    for function in list(vars(module).values()):
        # one with a signature of its own is there already, and takes no other
        if not isinstance(function, CPUDispatcher) or not function._can_compile:
            continue
        index = getattr(function._cache, "_cache_file", None)  # none: it is not to be kept
        here = function.targetctx.codegen().magic_tuple()  # the kind of processor
        for signature, machine, _ in list(index._load_index()) if index is not None else ():
            if machine == here:
                function.compile(signature)
