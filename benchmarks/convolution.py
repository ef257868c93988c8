"""Convolutions one by one: forward, gradient of the input, gradient of the kernel; each way.

    python benchmarks/convolution.py [--cache FOLDER] [--sizes 32-64-14,8-16-14]

Prints microseconds for a row of the batch on one thread (kernel 3×3, padding 1, single precision),
and the rate of the sum's own operations (18 for each channel in, channel out and pixel, whatever
the way does instead: "-" where it cannot be taken). Sizes are channels in, channels
out, pixels along a side. Kernels that are in the cache are not compiled again, so that a second
run measures only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import derive as dr
from codegen.module import cache_folder
from codegen.pack import Packing
from codegen.rates import WAYS
from codegen.taps import single_taps
from codegen.tune import seconds
from derive.program import Program

KINDS = {"y": "forward", "_d_h": "input", "_d_K": "kernel"}
SIZES = "8-16-4,8-16-14,1-32-28,32-64-14"


def convolution(channels: int, out: int, size: int) -> Program:
    """With a factor in front, so that the gradient of the convolution's input is asked for."""
    net = dr.Network(f"convolution {channels}-{out}-{size}")
    x = net.input("x", "B", channels, size, size)
    b, c, p, q = x.indices
    g = net.parameter("g", channels)
    y = dr.conv2d(net.define("h", (b, c, p, q), dr.tanh(g[c]*x[b, c, p, q])), out, 3, padding=1)
    net.loss(dr.mean(y.tensor.access**2, *y.indices))
    return dr.derive(net)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", help="where compiled kernels are kept")
    parser.add_argument("--sizes", default=SIZES)
    args = parser.parse_args()
    ways = [w for w in WAYS if w != "auto"]
    print(f"{'sizes':12}{'':9}" + "".join(f"{w:>12}{'GFLOP/s':>9}" for w in ways))
    for sizes in args.sizes.split(","):
        channels, out, size = map(int, sizes.split("-"))
        program = convolution(channels, out, size)
        packing = Packing(single_taps(program))
        packing.run()
        flop = 2*9*channels*out*size**2
        for name in packing.possible:
            kind = KINDS.get(name.rstrip("0123456789"))
            cells = []
            for way in ways:
                if way not in packing.possible[name]:
                    cells.append(f"{'-':>12}{'-':>9}")
                    continue
                took = seconds(packing.program, packing.program[name], way, "float32",
                               cache_folder(args.cache))
                cells.append(f"{took*1e6:12.2f}{flop/took/1e9:9.1f}")
            print(f"{sizes:12}{kind or name:9}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
