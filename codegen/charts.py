"""Pictures of runs, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from derive.errors import MissingError


def draw_curves(history: Sequence[Mapping[str, float]]) -> str:
    """SVG of losses (left axis) and of shares such as accuracy (right axis) over epochs.

    Raises:
        MissingError: matplotlib is not installed.
    """
    figure, rc = new_figure(7, 4)
    with rc:
        epochs = [row["epoch"] for row in history]
        left = figure.subplots()
        names = [n for n in history[-1] if n.endswith("loss")]
        for name, style in zip(names, ("-", "--", ":"), strict=False):
            left.plot(epochs, [row.get(name, np.nan) for row in history], style, color="#1f5fa8",
                      label="training loss" if name == "loss" else name.replace("_", " "))
        left.set_xlabel("epoch")
        left.set_ylabel("loss")
        if min(row[n] for row in history for n in names if n in row) > 0:
            left.set_yscale("log")
        left.grid(alpha=0.3)
        lines, labels = left.get_legend_handles_labels()
        shares = [n for n in history[-1] if n.endswith(("accuracy", "f1", "r2"))]
        if shares:
            right = left.twinx()
            for name, style in zip(shares, ("-", "--", ":", "-."), strict=False):
                right.plot(epochs, [row.get(name, np.nan) for row in history], style,
                           color="#b3541e", label=name.replace("_", " "))
            right.set_ylabel(", ".join(dict.fromkeys(n.rpartition("_")[2] for n in shares)))
            more = right.get_legend_handles_labels()
            lines, labels = lines + more[0], labels + more[1]
        left.legend(lines, labels, loc="center right", frameon=False)
        return as_svg(figure)


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure, and the context that it is to be drawn in: text as text, always the same.

    Raises:
        MissingError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingError(
            "plots are drawn by matplotlib, which is not installed",
            mend="python -m pip install matplotlib",
        ) from error
    from matplotlib.figure import Figure

    context = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chainrule"})
    return Figure(figsize=(width, height), layout="constrained"), context


def as_svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
