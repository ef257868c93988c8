"""chainrule's second half: from derived equations to compiled kernels and a trained model.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "compile": "codegen.build",
    "emit": "codegen.build",
    "deploy": "codegen.deployment",
    "show": "codegen.pipeline",
    "Model": "codegen.model",
    "KernelError": "codegen.failures",
    "NotFiniteError": "codegen.failures",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"codegen has no {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
