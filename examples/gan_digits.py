"""A generative adversarial network on scikit-learn's digits: two losses, alternating updates.

Both networks are of dense layers; the generator's loss is the non-saturating one (Goodfellow et al.
2014), and the label of real images is 0.9 (Salimans et al. 2016). What comes out is judged by a
classifier that learnt from the same real images: by how far the images lie from real ones in its
hidden layer (Fréchet's distance), by the share of which it is sure (a probability over 0.9), and by
how many of the ten classes have at least 3 % of the images.

    python examples/gan_digits.py

The distance of the generator's images is 0.93 (1.41 and 1.38 with two other seeds), of 78 % the
classifier is sure, and all ten classes are there. Real images that nothing was trained on have
0.57, 94 % and ten; the plain reference, one Gaussian with the mean and covariance of the training
images, 2.48, 45 % and ten.
"""

from pathlib import Path

import numpy as np

import codegen
import derive as dr

NOISE, WIDTH, BATCH, STEPS, RATE = 16, 128, 64, 10_000, 1e-3

net = dr.Network("GAN on digits")
noise, real = net.input("noise", "B", NOISE), net.input("real", "B", 64)
h = dr.dense(dr.dense(noise, WIDTH, dr.relu), WIDTH, dr.relu)
fake = dr.dense(h, 64, dr.sigmoid)
made = [t.name for t in net.program().parameters]
b = fake.indices[0]
weights: list[dr.network.Handle] = []


def discriminate(images: dr.network.Handle, stem: str) -> dr.network.Handle:
    """The logit of "real": the same parameters for every call."""
    h = images
    for layer, units in enumerate((WIDTH, WIDTH, 1)):
        i, j = h.indices[-1], dr.indices(f"{'jkm'[layer]}:{units}")
        if len(weights) < 6:
            weights.extend((net.parameter(f"D{layer}", i, j), net.parameter(f"bias{layer}", j)))
        w, c = weights[2 * layer], weights[2 * layer + 1]
        z = dr.sum(h[b, i] * w[i, j], i) + c[j]
        h = net.define(f"{stem}{layer}", (b, j), z if units == 1 else dr.leaky_relu(z, 0.2))
    return h


on_real, on_fake = discriminate(real, "r"), discriminate(fake, "f")
k = on_real.indices[1]
SMOOTH = 0.1  # how far the label "real" is from 1
right = dr.softplus(-on_real[b, k]) + SMOOTH * on_real[b, k] + dr.softplus(on_fake[b, k])
net.loss(dr.mean(right, b, k), "L_D", wrt=weights)
net.loss(dr.mean(dr.softplus(-on_fake[b, k]), b, k), "L_G", wrt=[net[n] for n in made])


class Judge:
    """A classifier of real digits, and what it says of images; it learns from real ones alone."""

    def __init__(self, x: np.ndarray, t: np.ndarray) -> None:
        own = dr.Network("judge")
        images, labels = own.input("x", "B", 64), own.input("t", "B", dtype=int)
        hidden = dr.dense(images, 64, dr.relu)
        logits = dr.dense(hidden, 10)
        own.loss(dr.cross_entropy(logits, labels))
        self.hidden, self.logits = hidden.name, logits.name
        self.model = codegen.compile(dr.derive(own), optimizer=dr.adam(lr=2e-3), parallel=False)
        self.model.initialize(seed=0)
        self.model.fit({"x": x, "t": t}, epochs=60, batch=32, seed=0)

    def classes(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The class of each image and its probability."""
        z = self.model.predict(outputs=[self.logits], x=images)[self.logits]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p.argmax(axis=1), p.max(axis=1)

    def distance(self, images: np.ndarray, others: np.ndarray) -> float:
        """Fréchet's distance of two sets of images, as Gaussians of the hidden layer's outputs
        (Heusel et al. 2017)."""
        (m1, c1), (m2, c2) = (self._gaussian(x) for x in (images, others))
        root = np.sqrt(np.linalg.eigvals(c1 @ c2).real.clip(0)).sum()
        return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root)

    def _gaussian(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.model.predict(outputs=[self.hidden], x=images)[self.hidden].astype(float)
        return found.mean(axis=0), np.cov(found.T)

    def report(self, name: str, images: np.ndarray, truth: np.ndarray) -> tuple[float, float, int]:
        """Distance from real images, the share that is sure, and the classes with 3 % of it."""
        kinds, sure = self.classes(images)
        counts = np.bincount(kinds[sure > 0.9], minlength=10)
        covered = int((counts >= 0.03 * len(images)).sum())
        distance, share = self.distance(images, truth), float((sure > 0.9).mean())
        print(f"{name:14} distance {distance:6.2f}   sure of {100 * share:5.1f} %   "
              f"{covered} of 10 classes")
        return distance, share, covered


def data(validate: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, their labels, and images that neither network nor judge has seen."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    train, held = (order[720:], order[360:720]) if validate else (order[360:], order[:360])
    return images[train] / 16, labels[train], images[held] / 16


def train(x: np.ndarray, seed: int) -> np.ndarray:
    """The generator's samples after training."""
    program = net.program()
    D, G = (codegen.compile(dr.derive(program.only(loss)), parallel=False,
                            optimizer=dr.adam(lr=RATE, beta1=0.5)) for loss in ("L_D", "L_G"))
    D.initialize(seed)
    G.initialize(seed)
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        for model in (D, G):
            model.set(lr=RATE * (1 - step / STEPS))
        for name in made:  # each has a buffer of its own: hand over what the other one changed
            D.parameters[name][...] = G.parameters[name]
        D.step(real=x[rng.integers(len(x), size=BATCH)], noise=rng.normal(size=(BATCH, NOISE)))
        for w in weights:
            G.parameters[w.name][...] = D.parameters[w.name]
        G.step(noise=rng.normal(size=(BATCH, NOISE)))
    return G.predict(outputs=[fake.name], noise=rng.normal(size=(2000, NOISE)))[fake.name]


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    program = net.program()
    for loss in ("L_D", "L_G"):
        dr.derive(program.only(loss)).document(out / f"gan_digits_{loss}.html", force=True)
    x, labels, unseen = data()
    judge = Judge(x, labels)
    rng = np.random.default_rng(1)
    plain = rng.multivariate_normal(x.mean(axis=0), np.cov(x.T), 2000).clip(0, 1)
    judge.report("real, unseen", unseen, x)
    gaussian, _, _ = judge.report("one Gaussian", plain, x)
    distance, share, covered = judge.report("the generator", train(x, seed=0), x)
    assert distance < 0.7 * gaussian and share > 0.6 and covered >= 9


if __name__ == "__main__":
    main()
