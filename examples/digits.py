"""Handwritten digits by a perceptron: 8×8 pixels in, two hidden layers, ten classes out.

    python examples/digits.py       or: chainrule train examples/digits.py --data digits

It gets 97.8 % of the test images right. The plain reference, scikit-learn's MLPClassifier with
the same layers, batches, rate and number of epochs on the same split, gets 97.5, 96.9 and
97.2 % for three seeds.
"""

import warnings
from pathlib import Path

import numpy as np

import derive as dr

WIDTHS, RATE, BATCH, EPOCHS = (256, 128), 1e-3, 32, 30

net = dr.Network("digits")
x = net.input("x", "B", 64)
t = net.input("t", "B", dtype=int)
h1 = dr.dense(x, WIDTHS[0], dr.relu)
h2 = dr.dense(h1, WIDTHS[1], dr.relu)
z = dr.dense(h2, 10)
net.loss(dr.cross_entropy(z, t))


def data() -> tuple[dict, dict]:
    from codegen.datasets import scikit_learn, split
    from codegen.rows import Rows

    images, labels = scikit_learn("digits")
    parts = split(Rows({"x": images / 16, "t": labels}), 0.2, seed=0)
    return parts.train.take(), parts.test.take()


def main(out: Path = Path("out")) -> None:
    from sklearn.neural_network import MLPClassifier

    import codegen

    out.mkdir(exist_ok=True)
    d = dr.derive(net)
    d.document(out / "digits.html", force=True)
    train, test = data()
    model = codegen.compile(d, optimizer=dr.adam(lr=RATE), parallel=False).initialize(seed=0)
    model.fit(train, epochs=EPOCHS, batch=BATCH, seed=0)
    guess = model.predict(outputs=[z.name], x=test["x"])[z.name].argmax(axis=1)
    ours = float(np.mean(guess == test["t"]))
    other = MLPClassifier(WIDTHS, alpha=0, batch_size=BATCH, learning_rate_init=RATE,
                          max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=0)
    with warnings.catch_warnings():  # that it might go on
        warnings.simplefilter("ignore")
        other.fit(train["x"], train["t"])
    theirs = other.score(test["x"], test["t"])
    print(f"test accuracy {100 * ours:.1f} %, scikit-learn {100 * theirs:.1f} %")
    assert ours >= 0.97


if __name__ == "__main__":
    main()
