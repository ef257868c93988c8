"""Forecast beside measurement: networks of 100 layers at width 256, each activation with each
initialisation, measured by the reference evaluator; and a network while it is trained, measured
by the emitted kernels.

    python benchmarks/flow.py            # the table of 100-layer networks (minutes)
    python benchmarks/flow.py --training # adjoints of weights while kernels train (a minute)

The stated bound is that of finite width, derived. Given the layers before, each of n units is an
independent normal, so

- a layer's means over its units of φ² and φ'² deviate from E[φ²] and E[φ'²] as means of n draws do,
  and the squared adjoint, behind normal weights, by 2/n E[φ'⁴]/E[φ'²]² besides (Hanin and Nica
  2020): the variance of the pre-activations walks at random around the map q' = σ² E[φ²](q).
  Near a fixed point that is not stable (gelu with 2/n) the map amplifies what the first layers
  deviate by, in either direction by another amount;
- the weights between two layers are known along one direction, z' = W h: the adjoint W d' is
  normal across h, and along it h (z'·d')/|h|². So R = z·d, the derivative by the scale of the
  signal, has a recursion of its own, R = a R' + noise, a = E[z φ φ']/E[φ²], the noise of variance
  n (E[z²φ'²] - a² E[φ²]) by the square of W d'. It begins as one n-th of the adjoint's square.
  Where a² is far larger than σ² E[φ'²] (softplus with 2/n: 1 to 0.83), it is all that is left.

No linear formula will do, so this walk of two numbers is drawn 4,000 times (the deviations of a
layer are those of all samples, the inputs' lengths each sample's own). A row is within bounds where
the measured logarithm lies between the 0.135th and the 99.865th percentile, that of three standard
deviations, plus 2 %.

--training uses labels that belong to the images: the gradient of a weight is then larger than for
labels drawn at random, which is what the forecast assumes, and while weights learn they are no
longer independent of the data. The ratios show how far the forecast carries.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from sympy import Expr

import derive as dr
from derive.flow.forecast import Forecast, adjoint_name, forecast
from derive.flow.moments import X, gain, selu, slope_of
from derive.flow.quadrature import compiled, expect
from derive.flow.sample import measure
from derive.network import Network
from derive.operations import elementwise

DEPTH, WIDTH, BATCH = 100, 256, 16

ACTIVATIONS: dict[str, Callable] = {
    "identity": dr.identity, "relu": dr.relu, "leaky relu": dr.leaky_relu, "elu": dr.elu,
    "selu": lambda z: elementwise(selu, z), "gelu": dr.gelu, "silu": dr.silu, "tanh": dr.tanh,
    "sigmoid": dr.sigmoid, "softplus": dr.softplus, "erf": dr.erf, "sin": dr.sin, "abs": dr.abs,
}


def stack(phi: Callable, deviation: float, depth: int = DEPTH, width: int = WIDTH) -> Network:
    """``depth`` layers without biases, then 10 logits and cross-entropy."""
    net = dr.Network("stack")
    x, t = net.input("x", "B", width), net.input("t", "B", dtype=int)
    b, h = x.indices[0], x
    for n in range(depth):
        i, j = h.indices[-1], dr.indices(f"{'jk'[n % 2]}:{width}")
        weight = net.parameter(f"W{n + 1}", i, j, initial=deviation)
        h = phi(net.define(f"z{n + 1}", (b, j), dr.sum(h[b, i] * weight[i, j], i)))
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    return net


def initialisations(f: Expr) -> dict[str, float]:
    """σ_w by name; with equal fans Glorot's rule is LeCun's 1/n."""
    found = {"1/n (LeCun, Glorot)": 1.0, "2/n (He)": math.sqrt(2), "gain": float(gain(f))}
    kept: dict[str, float] = {}
    for name, sigma in found.items():
        if all(abs(sigma - other) > 1e-9 for other in kept.values()):
            kept[name] = sigma
    return kept


class Walk:
    """Finite width as a walk of two numbers: the variance of the pre-activations, and z·d."""

    def __init__(self, f: Expr, sigma: float, variances: list[float], count: int = 4000) -> None:
        self.sigma, self.variances, self.count = sigma, np.array(variances), count
        self.rng = np.random.default_rng(0)
        self.phi, self.slope = compiled(f, X), compiled(slope_of(f), X)
        logs = np.log(self.variances)
        self.grid = np.linspace(logs.min() - 8, logs.max() + 8, 241)
        self.tables: dict[tuple[int, int, int], np.ndarray] = {}

    def mean(self, z: int, phi: int, slope: int, at: np.ndarray) -> np.ndarray:
        """E[zᵃ φᵇ φ'ᶜ] at logarithms of a variance."""
        key = (z, phi, slope)
        if key not in self.tables:
            self.tables[key] = np.array([expect(
                lambda x: x**z * self.phi(x)**phi * self.slope(x)**slope, math.exp(g)).value
                for g in self.grid])
        return np.interp(at, self.grid, self.tables[key])

    def deviations(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a layer's means over units of φ² and φ'² are, over E[φ²] and E[φ'²]."""
        signal, adjoint = self.mean(0, 2, 0, at), self.mean(0, 0, 2, at)
        own = np.maximum(self.mean(0, 4, 0, at) / signal**2 - 1, 1e-300) / WIDTH
        both = (self.mean(0, 2, 2, at) / (signal * adjoint) - 1) / WIDTH
        other = np.maximum(self.mean(0, 0, 4, at) / adjoint**2 - 1, 0) / WIDTH
        first, second = self.rng.normal(size=(2, self.count))
        shared = both / np.sqrt(own)
        return (np.maximum(1 + first * np.sqrt(own), 0.1),
                np.maximum(1 + first * shared + second * np.sqrt(
                    np.maximum(other - shared**2, 0)), 0.1))

    def bounds(self) -> tuple[float, float]:
        """Between what the logarithm measured/forecast of the adjoint's rms, from the last layer to
        the first, lies with 99.73 % probability."""
        at = np.log(self.variances[0]) + np.log1p(
            self.rng.normal(size=(self.count, BATCH)) * math.sqrt(2 / WIDTH))
        path, bent = [], []
        for _ in self.variances:
            own, other = self.deviations(np.median(at, axis=1))
            path.append(at)
            bent.append(other)
            at = np.log(self.sigma**2 * self.mean(0, 2, 0, at)) + np.log(own)[:, None]
        total = np.zeros((self.count, BATCH))
        along = self.rng.normal(size=self.count)  # R, the adjoint's mean square being 1
        along *= np.sqrt(WIDTH * self.mean(2, 0, 2, np.median(path[-1], axis=1))
                         / self.mean(0, 0, 2, np.median(path[-1], axis=1)))
        for at, other, q in list(zip(path, bent, np.log(self.variances)))[-2::-1]:
            grown, along = self.back(np.median(at, axis=1), other, along)
            own = self.mean(0, 0, 2, at) / self.mean(0, 0, 2, np.median(at, axis=1))[:, None]
            total += np.log(own * grown[:, None] / (self.sigma**2 * self.mean(0, 0, 2, q)))
        top = total.max(axis=1)
        gap = (top + np.log(np.exp(total - top[:, None]).mean(axis=1))) / 2
        low, high = np.percentile(gap, (0.135, 99.865))
        return float(low), float(high)

    def back(self, at: np.ndarray, other: np.ndarray, along: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray]:
        """One layer back: the growth of the adjoint's mean square, and R in its new unit."""
        square, a = self.mean(0, 2, 0, at), self.mean(1, 1, 1, at) / self.mean(0, 2, 0, at)
        slope = self.mean(0, 0, 2, at)
        turned = 2 * self.mean(0, 0, 4, at) / slope**2 / WIDTH
        through = self.sigma**2 * np.maximum(
            1 + self.rng.normal(size=self.count) * np.sqrt(turned), 0.1)
        grown = slope * other * through + self.mean(0, 2, 2, at) * (along / (WIDTH * square))**2
        noise = WIDTH * np.maximum(self.mean(2, 0, 2, at) - a**2 * square, 0) * through
        along = a * along + self.rng.normal(size=self.count) * np.sqrt(noise)
        return grown, along / np.sqrt(grown)


def row(name: str, phi: Callable, how: str, sigma: float) -> bool:
    f = dr.identity(X) if name == "identity" else phi(X) if name != "selu" else selu(X)
    started = time.perf_counter()
    predicted = forecast(dr.derive(stack(phi, sigma / math.sqrt(WIDTH))), sizes={"B": BATCH})
    derived = time.perf_counter() - started
    adjoints = [adjoint_name(predicted.flow.program, z) or "" for z in ("z1", f"z{DEPTH}")]
    measured = measure(predicted, [*adjoints, f"z{DEPTH}"])
    forward = [predicted[f"z{DEPTH}"].rms, measured[f"z{DEPTH}"]]
    if not (forward[0] > 0 and math.isfinite(forward[0])):
        print(f"{name:<11}{how:<21} the signal leaves the range of float64")
        return True
    first, last = adjoints
    totals = [predicted[first].rms / predicted[last].rms, measured[first] / measured[last]]
    steps = DEPTH - 1
    low, high = Walk(f, sigma, [predicted[f"z{n + 1}"].second for n in range(DEPTH)]).bounds()
    gap = math.log(totals[1] / totals[0])
    inside = low - 0.02 <= gap <= high + 0.02
    factors = [t ** (1 / steps) for t in totals]
    print(f"{name:<11}{how:<21}{factors[0]:>9.4f}{factors[1]:>10.4f}{totals[0]:>10.1e}"
          f"{totals[1]:>10.1e}{forward[0]:>10.1e}{forward[1]:>10.1e}{gap:>8.2f}"
          f"{low:>7.2f}{high:>6.2f} {'yes' if inside else 'NO':>4}{derived:>7.1f} s",
          flush=True)
    return inside


def table(only: str = "") -> None:
    print(f"{DEPTH} layers of width {WIDTH}, batch {BATCH}: forecast, measured")
    print(f"{'':<32}{'factor per layer':>19}{'adjoint, over all':>20}{'signal, last':>20}"
          f"{'log gap':>8}{'bounds':>13} {'in?':>4}")
    within = [
        row(name, phi, how, sigma)
        for name, phi in ACTIVATIONS.items() if only in ("", name)
        for how, sigma in initialisations(
            selu(X) if name == "selu" else phi(X)).items()
    ]
    print(f"{sum(within)} of {len(within)} within the bounds of finite width")


def training(depth: int = 6, width: int = 256) -> None:
    """Gradients of the weights from the emitted kernels, beside a forecast from the variances
    that the weights have at that moment."""
    from sklearn.datasets import load_digits

    import codegen

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels - pixels.mean()) / pixels.std()
    net = dr.Network("digits")
    x, t = net.input("x", "B", 64), net.input("t", "B", dtype=int)
    h = x
    for _ in range(depth):
        h = dr.dense(h, width, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    derived = dr.derive(net)
    model = codegen.compile(derived, optimizer=dr.sgd(lr=0.05), dtype="float64")
    model.initialize(seed=0)
    batch = {"x": pixels[:128], "t": labels[:128]}
    names = [f"W{n + 1}" for n in range(depth + 1)]
    print(f"{'step':>6}{'loss':>9}  measured/forecast of the rms of each weight's gradient")
    done = 0
    for steps in (0, 20, 100, 400):
        while done < steps:
            pick = np.random.default_rng(done).integers(0, len(labels), 64)
            model.step(x=pixels[pick], t=labels[pick])
            done += 1
        weights = {n: float(np.mean(model.parameters[n] ** 2)) for n in names}
        predicted: Forecast = forecast(derived, inputs={"x": batch["x"]}, weights=weights,
                                       sizes={"B": 128})
        found = model.gradients(**batch)
        ratios = [math.sqrt(np.mean(found[n] ** 2)) / predicted[f"_d_{n}"].rms for n in names]
        print(f"{done:>6}{model.loss(**batch):>9.4f}  "
              + "  ".join(f"{n} {r:.2f}" for n, r in zip(names, ratios)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", action="store_true", help="while kernels train")
    parser.add_argument("--only", default="", help="one activation")
    args = parser.parse_args()
    training() if args.training else table(args.only)
