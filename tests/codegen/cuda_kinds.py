"""One small network for each kind of kernel on a GPU; run as a program, all of them agree with the
reference evaluator (in Numba's simulator, where NUMBA_ENABLE_CUDASIM=1)."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import derive as dr
from codegen.memory import Storage
from derive.points import random_values
from derive.program import Program
from tests.codegen.cuda_support import EVERY, simulated, wrong_launches
from tests.codegen.test_fetched import convolution, recurrence
from tests.codegen.test_tiles import attention


@dataclass(frozen=True)
class Kind:
    """A network that has kernels of this kind; ``assembled``: some of them, of the network that is
    ``large`` where those that the simulator takes are too small to show what they need."""

    network: Callable[[], Program]
    assembled: tuple[str, ...] = ()
    storage: Storage = EVERY
    large: Callable[[], Program] | None = None


def classifier() -> Program:
    """Products with what stands behind them, a softmax, losses, sums of rows in parts."""
    net = dr.Network("classifier")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.layer_norm(dr.dense(x, 4, dr.gelu)), 3), t))
    return dr.derive(net)


def embedded() -> Program:
    """A gather, and the scatter that is its gradient."""
    net = dr.Network("embedded")
    words, t = net.input("words", "B", 3, dtype=int), net.input("t", "B", 3, 2)
    net.loss(dr.mean_squared_error(dr.embedding(words, 5, 2), t))
    return dr.derive(net)


def long_attention() -> Program:
    net = dr.Network("long attention")
    x = net.input("x", "B", 512, 128)
    y = dr.multi_head_attention(x, 2, causal=True)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", 512, 128)))
    return dr.derive(net)


KINDS = {
    "rows and elements": Kind(classifier, ("k6_z2_3_2", "k12_d_c3_parts")),
    "windows": Kind(partial(convolution, 2, 3, 5, 3), ("k1_h_2", "k5_d_K1")),
    "recurrence": Kind(partial(recurrence, 3, 4), ("k2_u_h1", "k7_d_V1")),
    "embedding": Kind(embedded, ("k4_d_E1",)),
    "attention": Kind(partial(attention, causal=True),
                      ("k4_s1_2_v2", "k4_again_s1", "k4_again_s1_2"),
                      Storage(reuse=False, tiles=(4, 3)), long_attention)}


def main() -> int:
    found = 0
    for name, kind in KINDS.items():
        program = kind.network()
        with tempfile.TemporaryDirectory() as folder:
            wrong = wrong_launches(program, random_values(program, 3, {"B": 2}), Path(folder),
                                   {"B": 2}, load=simulated, storage=kind.storage)
        print(f"{name}: {wrong or 'agrees'}", flush=True)
        found += len(wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
