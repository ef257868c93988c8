"""Progression of diabetes from ten measurements (442 patients): a small network against a line.

    python examples/diabetes.py            or: chainrule train examples/configs/diabetes.toml

The coefficient of determination on held-out patients stands beside that of ordinary least squares
on the same split. There is little to gain over the line here, and the network does not find it.
"""

from pathlib import Path

import numpy as np

import derive as dr

net = dr.Network("diabetes")
x, t = net.input("x", "B", 10), net.input("t", "B", 1)
h = dr.dense(x, 16, dr.tanh)
y = dr.dense(h, 1)
net.loss(dr.mean_squared_error(y, t))


def least_squares(train: dict, test: dict) -> float:
    """R² on the test rows of the best line."""
    ones = np.ones((len(train["x"]), 1))
    weights = np.linalg.lstsq(np.hstack([train["x"], ones]), train["t"], rcond=None)[0]
    left = test["t"] - np.hstack([test["x"], np.ones((len(test["x"]), 1))]) @ weights
    return float(1 - (left**2).sum() / ((test["t"] - test["t"].mean()) ** 2).sum())


def main() -> None:
    from codegen.configuration import read_config
    from codegen.datasets import load_data
    from codegen.loading import load_model
    from codegen.session import prepare, run

    config = read_config(Path(__file__).parent / "configs" / "diabetes.toml")
    file = load_model(config.model)
    parts = load_data(file, config.data.source, test_share=config.data.test_share,
                      validation_share=config.data.validation_share, seed=config.plan.seed)
    session = prepare(file.program, parts, config.plan, config.make_optimizer())
    run(session)
    row = session.history[session.training.at.best_epoch - 1]
    line = least_squares(parts.train.take(), parts.test.take())
    print(f"R² on test patients: network {row['r2']:.3f} (epoch {row['epoch']:.0f}), "
          f"least squares {line:.3f}")
    assert row["r2"] > line - 0.1


if __name__ == "__main__":
    main()
