"""Logistic regression on 30 features of breast tumours, against scikit-learn's coefficients.

    python examples/breast_cancer.py       or: chainrule train examples/configs/breast_cancer.toml

Both minimise the mean cross-entropy plus ‖w‖²/(2N) (scikit-learn's C = 1), each with its own
method; the minimum is unique, so the coefficients must agree.
"""

from pathlib import Path

import numpy as np

import derive as dr

ROWS = 456  # that the configuration leaves to train on
net = dr.Network("logistic regression on tumours")
b, i, k = dr.indices("b:B i:30 k:1")
x, t = net.input("x", b, i), net.input("t", b, k)
w, c = net.parameter("w", i, k, initial="zeros"), net.parameter("c", k)
z = net.define("z", (b, k), dr.sum(x[b, i] * w[i, k], i) + c[k])
net.loss(dr.binary_cross_entropy(z, t) + dr.l2(w) / ROWS)


def main() -> None:
    from sklearn.linear_model import LogisticRegression

    from codegen.configuration import read_config
    from codegen.datasets import load_data
    from codegen.loading import load_model
    from codegen.session import prepare, run

    config = read_config(Path(__file__).parent / "configs" / "breast_cancer.toml")
    file = load_model(config.model)
    parts = load_data(file, config.data.source, test_share=config.data.test_share,
                      validation_share=0.0, seed=config.plan.seed)
    train = parts.train.take()
    assert len(train["x"]) == ROWS
    session = prepare(file.program, parts, config.plan, config.make_optimizer(), dtype=config.dtype)
    run(session)
    other = LogisticRegression(tol=1e-10, max_iter=10_000).fit(train["x"], train["t"][:, 0])
    mine = session.model.parameters
    difference = float(np.abs(mine["w"][:, 0] - other.coef_[0]).max())
    row = session.history[-1]
    print(f"accuracy on test rows {row['binary_accuracy']:.4f}; largest coefficient "
          f"{np.abs(other.coef_).max():.3f}, largest difference from scikit-learn {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    main()
