"""Logistic regression, on the three samples of the article's section 5.2 and on real data.

The article applies the sigmoid and then hands the result to a loss that applies it again; here
the loss takes the logit. Its three samples lie on one line in the order 0, 1, 0, which no linear
model separates: the best that logistic regression can do is p = 1/3 everywhere, with a loss equal
to the entropy of (1/3, 2/3). So that is what training must reach, and it does.

python examples/logistic_regression.py
"""

from pathlib import Path

import numpy as np

import codegen
import derive as dr

net = dr.Network("logistic regression")
b, i, k = dr.indices("b:B i:3 k:1")
x = net.input("x", b, i)
t = net.input("t", b, k)
w, c = net.parameter("w", i, k), net.parameter("c", k)
z = net.define("z", (b, k), dr.sum(x[b, i] * w[i, k], i) + c[k])
net.loss(dr.binary_cross_entropy(z, t))


def data() -> tuple[dict, dict]:
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    return {"x": (x - 5.0) / 3.0, "t": np.array([[0.0], [1.0], [0.0]])}, {}


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    d = dr.derive(net)
    report = dr.check(d, sizes={"B": 3})
    print(report)
    assert report.ok
    d.document(out / "logistic_regression.html", check=report, force=True)
    model = codegen.compile(d, optimizer=dr.momentum(lr=0.1), dtype="float64")
    model.initialize(seed=0)
    train, _ = data()
    for _ in range(3000):
        model.step(**train)
    entropy = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    logits = model.predict(outputs=["z"], x=train["x"])["z"]
    print(f"loss {model.loss(**train):.12f}, entropy {entropy:.12f}")
    print("p =", np.round(1 / (1 + np.exp(-logits[:, 0])), 6))
    assert abs(model.loss(**train) - entropy) < 1e-9


if __name__ == "__main__":
    main()
