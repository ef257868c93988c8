"""A character model: an LSTM reads the documentation that ships with Python and guesses on.

    python examples/char_lstm.py

The text is English prose about Python (`pydoc_data.topics`), the last tenth of it held out. After
six passes the network needs 2.62 bits for a character of text that it has not seen. The plain
reference, a table of counts of which character follows which (with one added to each count), needs
3.63. The text differs a little between versions of Python, and so do the figures.
"""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import codegen
import derive as dr

TEXT = "".join(c for _, text in sorted(topics.items()) for c in text if c.isascii())[:120_000]
LETTERS = sorted(set(TEXT))
STEPS, UNITS = 32, 64

net = dr.Network("character LSTM")
x, t = (net.input(name, "B", STEPS, dtype=int) for name in ("x", "t"))
h = dr.lstm(dr.embedding(x, len(LETTERS), 24), UNITS)
z = dr.dense(h, len(LETTERS))
net.loss(dr.cross_entropy(z, t))


def pieces(codes: np.ndarray, shift: int = 0) -> dict[str, np.ndarray]:
    """Pieces of the text, and each character's successor."""
    count = (len(codes) - 1 - shift) // STEPS
    cut = [codes[shift + n : shift + n + count * STEPS].reshape(count, STEPS) for n in (0, 1)]
    return {"x": cut[0], "t": cut[1]}


def codes() -> list[np.ndarray]:
    """The text as numbers of letters, the last tenth apart."""
    every = np.array([LETTERS.index(c) for c in TEXT])
    return np.split(every, [len(every) * 9 // 10])


def data() -> tuple[dict, dict]:
    """For ``chainrule train``: pieces that are the same in each epoch."""
    train, test = codes()
    return pieces(train), pieces(test)


def bits_of_counts(train: np.ndarray, test: np.ndarray) -> float:
    """Bits per character of the table of pairs."""
    counts = np.ones((len(LETTERS), len(LETTERS)))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    share = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log2(share[test[:-1], test[1:]]).mean())


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    d = dr.derive(net)
    d.document(out / "char_lstm.html", force=True)
    train, test = codes()
    model = codegen.compile(d, optimizer=dr.adam(lr=4e-3), parallel=False)
    model.initialize(seed=0)
    for epoch in range(6):
        model.set(lr=4e-3 * 0.65**epoch)
        loss = model.epoch(pieces(train, 7 * epoch), batch=16, rng=epoch)
        print(f"epoch {epoch + 1}: {loss / np.log(2):.3f} bits per character")
    found, counted = model.loss(**pieces(test)) / np.log(2), bits_of_counts(train, test)
    print(f"on held-out text: {found:.3f} bits per character; counts of pairs {counted:.3f}")
    assert found < counted - 0.2


if __name__ == "__main__":
    main()
