"""Pictures of a run: loss and accuracy over epochs, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from derive.errors import MissingError


def write_curves(path: Path, history: Sequence[Mapping[str, float]]) -> Path:
    """Write loss (left axis) and accuracy (right axis, where it was measured) over epochs.

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

    epochs = [row["epoch"] for row in history]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chainrule"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        left = figure.subplots()
        left.plot(epochs, [row["loss"] for row in history], color="#1f5fa8", label="training loss")
        if "test_loss" in history[0]:
            left.plot(epochs, [row["test_loss"] for row in history], "--", color="#1f5fa8",
                      label="test loss")
        left.set_xlabel("epoch")
        left.set_ylabel("loss")
        left.set_yscale("log")
        left.grid(alpha=0.3)
        lines, names = left.get_legend_handles_labels()
        if "accuracy" in history[0]:
            right = left.twinx()
            right.plot(epochs, [100 * row["accuracy"] for row in history], color="#b3541e",
                       label="test accuracy")
            right.set_ylabel("accuracy, %")
            more = right.get_legend_handles_labels()
            lines, names = lines + more[0], names + more[1]
        left.legend(lines, names, loc="center right", frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    path.write_text(text.getvalue(), encoding="utf-8")
    return path
