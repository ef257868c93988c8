"""``chainrule report`` and ``replay``: what a run reached, and a step that went wrong."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import codegen
from codegen.charts import draw_curves
from codegen.flow import in_words, picture, seen
from codegen.health import read_looks
from codegen.loading import load_model
from codegen.replay import read_replay, replay
from codegen.runs import read_run, summary
from derive.differentiate import derive
from derive.errors import ChainruleError, DataError, MissingError
from derive.files import write_atomically
from derive.optimizers import make_optimizer

Row = Mapping[str, float]
_STYLE = ("body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
          "table{border-collapse:collapse}td,th{padding:.15rem .8rem;text-align:right;"
          "border-bottom:1px solid #ddd}svg{max-width:100%;height:auto}")


def report(folder: Path) -> tuple[dict[str, Any], str]:
    """Write ``report.html`` into a run's folder; the same in words.

    Raises:
        DataError: the folder is not that of a run, or the run has no finished epoch.
    """
    settings = read_run(folder)
    history = _history(folder)
    seconds = float(history[-1].get("seconds", 0.0))
    best = int(settings.get("best_epoch", 0))
    lines = [summary(settings.get("network", "?"), history, seconds)]
    if best:
        lines.append(f"best epoch: {best}")
    lines.append(f"ended: {settings.get('ended', 'not yet, or killed (chainrule resume)')}"
                 + (f": {settings['detail']}" if settings.get("detail") else ""))
    lines += [f"note: {m}" for m in settings.get("messages", ())]
    config = settings["config"]
    lines.append(f"optimizer: {json.dumps(config['optimizer'])}, batch {config['plan']['batch']}, "
                 f"seed {config['plan']['seed']}, {config['dtype']}")
    flow, words = _flow(settings, folder)
    lines += words
    path = folder / "report.html"
    write_atomically(path, _page(settings, history, lines, flow).encode())
    lines.append(f"page: {path}")
    return {"network": settings.get("network"), "epochs": len(history), "last": dict(history[-1]),
            "best_epoch": best, "ended": settings.get("ended"), "page": str(path)}, "\n".join(lines)


def _flow(settings: Mapping[str, Any], folder: Path) -> tuple[str, list[str]]:
    """How signals and gradients flowed beside the forecast: a picture, which is written into the
    folder, too, and lines."""
    looks = read_looks(folder)
    if not looks:
        return "", []
    try:
        found = seen(load_model(settings["config"]["model"]).program, looks)
    except ChainruleError:  # the model's file is gone, or its flow cannot be followed
        return "", []
    drawn = picture(found)
    write_atomically(folder / "flow.svg", drawn.encode())
    return drawn, in_words(found)


def _history(folder: Path) -> list[Row]:
    try:
        history = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        history = []
    if not history:
        raise DataError(f"the run in {str(folder)!r} has no finished epoch yet",
                        mend=f"chainrule resume {folder}")
    return history


def _page(settings: Mapping[str, Any], history: Sequence[Row], lines: Sequence[str],
          flow: str) -> str:
    try:
        curves = draw_curves(history)
        curves = curves[curves.index("<svg"):]
    except MissingError:
        curves = ""
    columns = list(dict.fromkeys(n for row in history for n in row))
    step = max(1, len(history) // 40)
    shown = [row for n, row in enumerate(history) if n % step == 0 or n == len(history) - 1]
    cells = "".join(
        "<tr>" + "".join(f"<td>{_number(row.get(c))}</td>" for c in columns) + "</tr>"
        for row in shown)
    head = "".join(f"<th>{html.escape(c.replace('_', ' '))}</th>" for c in columns)
    words = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    whole = html.escape(json.dumps(settings, indent=1))
    title = html.escape(str(settings.get("network")))
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            f'style-src \'unsafe-inline\'"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
            f"{words}{curves}<table><tr>{head}</tr>{cells}</table>{flow}"
            f"<details><summary>settings</summary><pre>{whole}</pre></details></body></html>\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.5g}"


def replay_file(path: Path, model: str | None = None) -> tuple[dict[str, Any], str]:
    """Take the step of a replay file again, with the kernels of its network.

    Raises:
        DataError: the file is damaged, of another kind, or of another network.
    """
    stored = read_replay(path)
    notes = stored.notes
    program = load_model(model or notes["model"]).program
    made = codegen.compile(derive(program), optimizer=make_optimizer(notes["optimizer"]),
                           dtype=notes["dtype"])
    tensor, what = replay(made, stored)
    found = {"tensor": tensor, "what": what, "step": stored.step, "epoch": notes["epoch"],
             "rows": notes["rows"]}
    if not tensor:
        return found, (f"step {stored.step} is finite on this machine; there it was not: "
                       f"{notes['what']}")
    return found, (f"{what} at step {stored.step} (epoch {notes['epoch']}, "
                   f"{len(notes['rows'])} rows)")
