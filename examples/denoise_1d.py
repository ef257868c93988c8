"""Noise taken out of a signal by a 1-D convolutional network, where the truth is known.

The signal is a sum of tones that come and go, 256 samples long, with white noise of the same power
on it (0 dB). The network brings it to 8.9 dB. The plain reference is the best that any fixed linear
filter with 32 taps on both sides can do, the Wiener filter, fitted to the same training data by
least squares: 6.9 dB.

    python examples/denoise_1d.py
"""

from pathlib import Path

import numpy as np

import codegen
import derive as dr

LENGTH = 256
net = dr.Network("denoiser")
x, t = net.input("x", "B", 1, LENGTH), net.input("t", "B", 1, LENGTH)
h = dr.conv1d(x, 12, 9, dr.relu, padding=4)
for dilation in (2, 4):
    h = dr.conv1d(h, 12, 9, dr.relu, padding=4 * dilation, dilation=dilation)
y = dr.add(x, dr.conv1d(h, 1, 9, padding=4))
net.loss(dr.mean_squared_error(y, t))


def signals(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Two tones with envelopes of their own, and the same with noise."""
    time = np.arange(LENGTH)
    clean = np.zeros((count, LENGTH))
    for _ in range(2):
        period, middle, width = (rng.uniform(low, high, (count, 1)) for low, high in (
            (6, 40), (0, LENGTH), (20, 80)))
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        clean += np.exp(-(((time - middle) / width) ** 2)) * np.sin(
            2 * np.pi * time / period + phase)
    noisy = clean + clean.std() * rng.normal(size=clean.shape)
    return {"x": noisy[:, None], "t": clean[:, None]}


def decibels(clean: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(clean**2) / np.mean((other - clean) ** 2)))


def wiener(train: dict[str, np.ndarray], test: dict[str, np.ndarray], reach: int = 32) -> float:
    """The best fixed linear filter that reaches as far on both sides."""
    def windows(part: dict[str, np.ndarray]) -> np.ndarray:
        wide = np.pad(part["x"][:, 0], ((0, 0), (reach, reach)))
        return np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=1).reshape(
            -1, 2 * reach + 1)

    taps = np.linalg.lstsq(windows(train), train["t"].reshape(-1), rcond=None)[0]
    return decibels(test["t"].reshape(-1), windows(test) @ taps)


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    d = dr.derive(net)
    d.document(out / "denoise_1d.html", force=True)
    rng = np.random.default_rng(0)
    train, test = signals(rng, 512), signals(rng, 128)
    model = codegen.compile(d, optimizer=dr.adam(lr=3e-3), parallel=False)
    model.initialize(seed=0)
    model.fit(train, epochs=20, batch=16, seed=0)
    model.set(lr=5e-4)
    model.fit(train, epochs=5, batch=16, seed=1)
    cleaned = model.predict(outputs=[y.name], x=test["x"])[y.name]
    ours, linear = decibels(test["t"], cleaned), wiener(train, test)
    print(f"signal to noise: {decibels(test['t'], test['x']):.1f} dB as given, {ours:.1f} dB from "
          f"the network, {linear:.1f} dB from the best fixed linear filter")
    assert ours > linear + 1


if __name__ == "__main__":
    main()
