"""An autoencoder on scikit-learn's digits: 64 pixels through 8 numbers and back.

    python examples/autoencoder.py

The mean squared error on images it has not seen is 0.0123. The best linear map through 8 numbers,
principal component analysis, is the plain reference and gives 0.0245.
"""

from pathlib import Path

import numpy as np

import codegen
import derive as dr

CODE = 8
net = dr.Network("autoencoder")
x = net.input("x", "B", 64)
code = dr.dense(dr.dense(x, 64, dr.relu), CODE)
y = dr.dense(dr.dense(code, 64, dr.relu), 64, dr.sigmoid)
net.loss(dr.mean_squared_error(y, x))


def data() -> tuple[dict, dict]:
    from codegen.datasets import scikit_learn, split
    from codegen.rows import Rows

    images, labels = scikit_learn("digits")
    parts = split(Rows({"x": images / 16, "t": labels}), 0.2, seed=0)
    return {"x": parts.train.take()["x"]}, {"x": parts.test.take()["x"]}


def principal_components(train: np.ndarray, test: np.ndarray) -> float:
    """The error of the best linear code of the same length."""
    mean = train.mean(axis=0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:CODE]
    back = (test - mean) @ directions.T @ directions + mean
    return float(np.mean((back - test) ** 2))


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    d = dr.derive(net)
    d.document(out / "autoencoder.html", force=True)
    model = codegen.compile(d, optimizer=dr.adam(lr=2e-3), parallel=False)
    model.initialize(seed=0)
    train, test = (part["x"] for part in data())
    model.fit({"x": train}, epochs=150, batch=32, seed=0)
    error, linear = model.loss(x=test), principal_components(train, test)
    print(f"mean squared error on test images {error:.4f}, principal components {linear:.4f}")
    assert error < 0.8 * linear


if __name__ == "__main__":
    main()
