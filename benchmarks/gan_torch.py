"""The generative adversarial network of examples/gan.py in PyTorch: python benchmarks/gan_torch.py

The same networks, losses, rule, schedule, batches and number of steps, from PyTorch's own initial
weights, and the same figures: how many of the eight Gaussians are covered, and the share of samples
that lie within 3 deviations of a middle. One line for each seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from gan import BATCH, MODES, NOISE, RATE, STEPS, WIDTH, quality, ring


def layers(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, WIDTH), activation(), nn.Linear(WIDTH, WIDTH),
                         activation(), nn.Linear(WIDTH, outputs))


class Leaky(nn.LeakyReLU):
    def __init__(self) -> None:
        super().__init__(0.2)


def train(seed: int) -> tuple[int, float]:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    make, judge = layers(NOISE, 2, nn.ReLU), layers(2, 1, Leaky)
    rules = [torch.optim.Adam(n.parameters(), lr=RATE, betas=(0.5, 0.999)) for n in (judge, make)]

    def noise(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(count, NOISE)).astype(np.float32))

    for step in range(STEPS):
        for rule in rules:
            rule.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        real = torch.from_numpy(ring(rng, BATCH).astype(np.float32))
        with torch.no_grad():
            fake = make(noise(BATCH))
        loss = functional.softplus(-judge(real)).mean() + functional.softplus(judge(fake)).mean()
        rules[0].zero_grad()
        loss.backward()
        rules[0].step()
        loss = functional.softplus(-judge(make(noise(BATCH)))).mean()
        rules[1].zero_grad()
        loss.backward()
        rules[1].step()
    with torch.no_grad():
        return quality(make(noise(4000)).numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        modes, share = train(seed)
        print(f"seed {seed}: {modes} of {MODES} modes, {100 * share:.1f} % within 3 deviations",
              flush=True)
