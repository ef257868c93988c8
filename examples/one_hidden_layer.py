"""Three inputs, three sigmoid units, one sigmoid output, loss ½(y - t)²: small enough to follow.

The article that this project grew from works this case in its section 4.3. It speaks of one input
neuron and then feeds x = (1, 2, 3); the three values are taken as three inputs here, since a
single input could not hold them. Its gradient formulas for this case are wrong in several places;
`examples/article/` hands them to `verify`.

python examples/one_hidden_layer.py
"""

from pathlib import Path

import numpy as np

import codegen
import derive as dr

net = dr.Network("one hidden layer")
b, i, j, k = dr.indices("b:B i:3 j:3 k:1")
x = net.input("x", b, i)
t = net.input("t", b, k)
W1, c1 = net.parameter("W1", i, j), net.parameter("c1", j)
W2, c2 = net.parameter("W2", j, k), net.parameter("c2", k)
h = net.define("h", (b, j), dr.sigmoid(dr.sum(x[b, i] * W1[i, j], i) + c1[j]))
y = net.define("y", (b, k), dr.sigmoid(dr.sum(h[b, j] * W2[j, k], j) + c2[k]))
net.loss(dr.squared_error(y, t))


def data() -> tuple[dict, dict]:
    """The one sample of the article, to be mapped to 0.75."""
    return {"x": np.array([[1.0, 2.0, 3.0]]), "t": np.array([[0.75]])}, {}


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    d = dr.derive(net)
    print(d)
    report = dr.check(d, sizes={"B": 2})
    print(report)
    assert report.ok
    d.document(out / "one_hidden_layer.html", check=report, force=True)
    model = codegen.compile(d, optimizer=dr.sgd(lr=2.0), dtype="float64")
    model.initialize(seed=0)
    train, _ = data()
    before = model.loss(**train)
    for _ in range(2000):
        model.step(**train)
    after, output = model.loss(**train), model.predict(outputs=["y"], x=train["x"])["y"]
    print(f"loss {before:.6f} → {after:.3e}; y = {output[0, 0]:.6f}, wanted 0.75")
    assert after < 1e-10


if __name__ == "__main__":
    main()
