"""A run that compiles its kernels and a later one that finds them compiled give the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# sums over rows and over columns, a softmax, an update: each in an order of its own
TRAINED = """
import hashlib, sys
import numpy as np
import codegen, derive as dr

net = dr.Network("cold and cached")
x, t = net.input("x", "B", 37), net.input("t", "B", dtype=int)
h = dr.tanh(dr.batch_norm(dr.dense(x, 23)))
net.loss(dr.cross_entropy(dr.dense(dr.layer_norm(h), 11), t))
model = codegen.compile(dr.derive(net), optimizer=dr.adam(lr=1e-2), threads=2,
                        directory=sys.argv[1])
rng = np.random.default_rng(1)
values = {"x": rng.standard_normal((61, 37)), "t": rng.integers(0, 11, 61)}
for parts in (1, 2):
    model.initialize(0)
    model._run.parts = lambda sizes: parts
    losses = [model.step(**values) for _ in range(5)]
    print(parts, losses, hashlib.sha256(model.flat.tobytes()).hexdigest())
stats = [f.stats for f in (model.kernels.gradient, model.kernels.gradient_team,
                           model.kernels.update_share)]
print(sum(sum(s.cache_hits.values()) for s in stats), file=sys.stderr)
"""


def trained(folder: Path) -> tuple[str, int]:
    """What a process prints that trains with the kernels of a folder, and how many of three entry
    points it found compiled."""
    done = subprocess.run([sys.executable, "-c", TRAINED, str(folder)], text=True, check=False,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, int(done.stderr.split()[-1])


def test_the_same_bits_whether_compiled_or_found_compiled(tmp_path: Path):
    cold, found = trained(tmp_path)
    assert found == 0
    cached, found = trained(tmp_path)
    assert found == 3
    assert cached == cold
