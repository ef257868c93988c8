"""An SVG of the rms of signals and adjoints per layer: predicted as lines, measured as dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from derive.flow.diagnose import Diagnosis

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 360, 70, 44, 20, 46
_COLOURS = {"signal": "#1f6feb", "adjoint": "#c2410c"}


def norms_picture(d: Diagnosis) -> str:
    """A self-contained SVG with a logarithmic axis; values that are 0 or infinite are left out."""
    series = {
        "signal": ([r.signal for r in d.rows], [r.measured_signal for r in d.rows]),
        "adjoint": ([r.adjoint for r in d.rows], [r.measured_adjoint for r in d.rows]),
    }
    values = [v for pair in series.values() for part in pair for v in part if _shown(v)]
    low, high = _range(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12" '
        'role="img">',
        f"<title>{escape(d.name)}: {escape(d.verdict)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(d.name)}: {escape(d.verdict)}</text>',
        *_legend(d),
        *_grid(low, high, [r.layer for r in d.rows]),
    ]
    for name, (predicted, measured) in series.items():
        parts += _curve(predicted, measured, low, high, _COLOURS[name])
    return "\n".join([*parts, "</svg>"])


def stacked(pictures: Sequence[str]) -> str:
    """Pictures of `norms_picture` one below the other, as one SVG."""
    inner = "".join(p.replace("<svg ", f'<svg y="{n * _HEIGHT}" ', 1)
                    for n, p in enumerate(pictures))
    height = _HEIGHT * len(pictures)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}">{inner}</svg>')


def _shown(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _range(values: Sequence[float | None]) -> tuple[int, int]:
    logs = [math.log10(v) for v in values if v]
    if not logs:
        return -1, 1
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return low, max(high, low + 1)


def _x(position: int, count: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (position + 0.5) / max(count, 1)


def _y(value: float, low: int, high: int) -> float:
    share = (math.log10(value) - low) / (high - low)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(low: int, high: int, layers: list[str]) -> list[str]:
    step = max(1, math.ceil((high - low) / 8))
    parts = []
    for power in range(low, high + 1, step):
        y = _y(10.0**power, low, high)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                     'stroke="#e5e7eb"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444">'
                     f'10<tspan dy="-5" font-size="9">{power}</tspan></text>')
    every = max(1, math.ceil(len(layers) / 12))
    for n in range(0, len(layers), every):
        parts.append(f'<text x="{_x(n, len(layers)):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
                     f'text-anchor="middle" fill="#444">{escape(layers[n])}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">layer</text>')
    return parts


def _legend(d: Diagnosis) -> list[str]:
    parts, x = [], _LEFT
    for name, colour in _COLOURS.items():
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="32" y2="32" stroke="{colour}" '
                     'stroke-width="2"/>')
        parts.append(f'<text x="{x + 30}" y="36">rms of the {name}, predicted</text>')
        x += 220
    if any(r.measured_adjoint is not None or r.measured_signal is not None for r in d.rows):
        parts.append(f'<circle cx="{x + 8}" cy="32" r="3.5" fill="none" stroke="#444"/>')
        parts.append(f'<text x="{x + 18}" y="36">measured</text>')
    return parts


def _curve(predicted: Sequence[float], measured: Sequence[float | None], low: int, high: int,
           colour: str) -> list[str]:
    count = len(predicted)
    points = " ".join(f"{_x(n, count):.1f},{_y(v, low, high):.1f}"
                      for n, v in enumerate(predicted) if _shown(v))
    parts = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for n, v in enumerate(measured):
        if v is not None and _shown(v):
            parts.append(f'<circle cx="{_x(n, count):.1f}" cy="{_y(v, low, high):.1f}" r="3.5" '
                         f'fill="none" stroke="{colour}"/>')
    return parts
