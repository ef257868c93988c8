"""Time and size of documents of deep networks: HTML at standard level, 5, 50 and 500 layers.

python benchmarks/documents.py        prints a table as the page on documents shows it

Layers of tanh, alike (width 32) or of many widths, and a squared error; without the numeric
check. The smallest of three times; the derivation is timed apart from the document.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import derive as dr

DEPTHS = (5, 50, 500)


def network(depth: int, alike: bool) -> dr.Network:
    """Layers of one width are alike and fold; of many widths they do not."""
    net = dr.Network(f"{depth} layers")
    h = net.input("x", "B", 32)
    for layer in range(depth):
        h = dr.dense(h, 32 if alike else 32 + (layer * 7919) % 101, dr.tanh)
    net.loss(dr.squared_error(dr.dense(h, 32), net.input("y", "B", 32)))
    return net


def main() -> None:
    print("| layers | derivation | document | size |\n|---|---|---|---|")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "document.html"
        dr.derive(network(2, True)).document(file)  # what is imported once
        for alike in (True, False):
            for depth in DEPTHS:
                derive, write = [], []
                for _ in range(3):
                    net = network(depth, alike)
                    start = time.perf_counter()
                    d = dr.derive(net)
                    middle = time.perf_counter()
                    d.document(file)
                    derive.append(middle - start)
                    write.append(time.perf_counter() - middle)
                print(f"| {depth}{'' if alike else ', of unlike widths'} | {min(derive):.2f} s | "
                      f"{min(write):.2f} s | {file.stat().st_size / 1000:,.0f} kB |", flush=True)


if __name__ == "__main__":
    main()
