"""Forecast beside measurement: networks of 100 layers at width 256, each activation with each
initialisation, measured by the reference evaluator; and a network while it is trained, measured
by the emitted kernels.

    python benchmarks/flow.py            # the table of 100-layer networks (minutes)
    python benchmarks/flow.py --training # adjoints of weights while kernels train (a minute)

The stated bound is that of finite width: the logarithm of a squared adjoint norm after L layers
of width n is about normal with variance β and mean -β/2, where β = L (3 E[φ'⁴]/E[φ'²]² - 1)/n
(Hanin and Nica 2020). A row is within bounds where the measured logarithm lies within three
standard deviations of that, plus 2 %. The bound counts the adjoint's own fluctuation; where the
variance map amplifies a deviation of the signal (gelu and softplus with 2/n shrink from one fixed
point towards another), signal and adjoint leave the forecast together, and the row says NO.

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


def spread(f: Expr, variance: float, depth: int) -> float:
    """β: the variance of the logarithm of a squared adjoint norm after ``depth`` layers."""
    slope = compiled(slope_of(f), X)
    second = expect(lambda z: slope(z) ** 2, variance).value
    fourth = expect(lambda z: slope(z) ** 4, variance).value
    return depth * (3 * fourth / second**2 - 1) / WIDTH


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
    beta = spread(f, predicted[f"z{DEPTH // 2}"].second, steps)
    gap = math.log(totals[1] / totals[0])
    inside = abs(gap + beta / 4) <= 1.5 * math.sqrt(beta) + 0.02
    factors = [t ** (1 / steps) for t in totals]
    print(f"{name:<11}{how:<21}{factors[0]:>9.4f}{factors[1]:>10.4f}{totals[0]:>10.1e}"
          f"{totals[1]:>10.1e}{forward[0]:>10.1e}{forward[1]:>10.1e}{gap:>8.2f}"
          f"{1.5 * math.sqrt(beta):>7.2f} {'yes' if inside else 'NO':>4}{derived:>7.1f} s",
          flush=True)
    return inside


def table() -> None:
    print(f"{DEPTH} layers of width {WIDTH}, batch {BATCH}: forecast, measured")
    print(f"{'':<32}{'factor per layer':>19}{'adjoint, over all':>20}{'signal, last':>20}"
          f"{'log gap':>8}{'3 sd':>7} {'in?':>4}")
    within = [
        row(name, phi, how, sigma)
        for name, phi in ACTIVATIONS.items()
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
    training() if parser.parse_args().training else table()
