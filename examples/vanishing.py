"""The article's three remedies for vanishing gradients, on one 50-layer sigmoid network.

The article names ReLU, Xavier/He initialisation and batch normalisation. Each is applied alone to
the same network of 50 sigmoid layers, and together where they belong together. For each the
derivation says by what factor the adjoint changes per layer, and the reference evaluator measures
it. What comes out: no initialisation mends a sigmoid; ReLU needs He's, with Xavier's it loses a
factor √2 per layer; batch normalisation works, because it takes out the mean that all samples
share.

python examples/vanishing.py
"""

from pathlib import Path

import derive as dr
from derive.flow.forecast import forecast
from derive.flow.moments import initialisation
from derive.flow.sample import measure
from derive.network import Network

DEPTH, WIDTH = 50, 64


def network(name: str, activation=dr.sigmoid, *, weights: float | str = "auto",
            norm: bool = False) -> Network:
    """64 inputs → 50 layers of 64 → 10 classes."""
    net = dr.Network(name)
    x, t = net.input("x", "B", 64), net.input("t", "B", dtype=int)
    b = x.indices[0]
    h = x
    for layer in range(DEPTH):
        i = h.indices[-1]
        j = dr.indices(f"{'jk'[layer % 2]}:{WIDTH}")
        W = net.parameter(f"W{layer + 1}", i, j, initial=weights)
        c = net.parameter(f"bias{layer + 1}", j)
        z = net.define(f"z{layer + 1}", (b, j), dr.sum(h[b, i] * W[i, j], i) + c[j])
        h = activation(dr.batch_norm(z) if norm else z)
    i, k = h.indices[-1], dr.indices("m:10")
    readout = net.parameter("readout", i, k)
    logits = net.define("logits", (b, k), dr.sum(h[b, i] * readout[i, k], i))
    net.loss(dr.cross_entropy(logits, t))
    return net


def variants() -> dict[str, Network]:
    """The network as it is, and with each of the article's remedies."""
    xavier = float(initialisation("identity", WIDTH, WIDTH).compromise) ** 0.5
    he = float(initialisation("relu", WIDTH, WIDTH).forward) ** 0.5
    return {
        "sigmoid": network("sigmoid"),
        "Xavier": network("Xavier", weights=xavier),
        "He": network("He", weights=he),
        "ReLU": network("ReLU", dr.relu, weights=xavier),
        "ReLU and He": network("ReLU and He", dr.relu, weights=he),
        "batch norm": network("batch norm", norm=True),
    }


def factors(net: Network, batch: int = 64) -> tuple[float, float]:
    """How the adjoint's rms changes per layer, from layer 50 to layer 1: forecast and measured."""
    predicted = forecast(dr.derive(net), sizes={"B": batch})
    first, last = "_d_z1", f"_d_z{DEPTH}"
    measured = measure(predicted, [first, last])
    return (
        (predicted[first].rms / predicted[last].rms) ** (1 / (DEPTH - 1)),
        (measured[first] / measured[last]) ** (1 / (DEPTH - 1)),
    )


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    found = dr.diagnose(network("50 sigmoid layers"), sizes={"B": 64})
    print(found)
    (out / "vanishing.svg").write_text(found.picture(), encoding="utf-8")
    print(f"\n{'':<14}{'factor per layer':>18}{'measured':>10}{'over 49 layers':>16}")
    for name, net in variants().items():
        predicted, measured = factors(net)
        works = "works" if 1e-3 < predicted ** (DEPTH - 1) < 1e3 else "does not work"
        print(f"{name:<14}{predicted:>18.4f}{measured:>10.4f}{predicted ** (DEPTH - 1):>16.1e}"
              f"   {works}", flush=True)
        assert abs(measured / predicted - 1) < 0.05


if __name__ == "__main__":
    main()
