"""A generative adversarial network on eight Gaussians in a ring: two losses, alternating updates.

Both losses are declared in one network, each with the parameters that it is to change: the one of
the discriminator D and, with the generator's samples called real, the one of the generator G
(Goodfellow et al. 2014, the non-saturating form). Each is derived by itself.

    python examples/gan.py

It covers 8 of the 8 Gaussians, and 93.8 % of its samples lie within 3 deviations of a middle (92.8
and 95.8 % with seeds 1 and 2), 98.8 % of the mixture itself. The same networks, losses and rule in
PyTorch (`benchmarks/gan_torch.py`) cover 8 as well, with 96.9, 96.3 and 95.9 %: the difference is
that of initial weights; drawn as PyTorch draws them, they come to 95.3, 96.8 and 95.6 % here.
"""

from pathlib import Path

import numpy as np

import codegen
import derive as dr

MODES, DEVIATION, NOISE, WIDTH = 8, 0.1, 4, 64
STEPS, BATCH, RATE = 8000, 512, 2e-3  # with 256, one start of four lost a mode
net = dr.Network("generative adversarial network")
noise, real = net.input("noise", "B", NOISE), net.input("real", "B", 2)
fake = dr.dense(dr.dense(dr.dense(noise, WIDTH, dr.relu), WIDTH, dr.relu), 2)
made = [t.name for t in net.program().parameters]
b, i = fake.indices
weights: list[dr.network.Handle] = []


def discriminate(points: dr.network.Handle, stem: str) -> dr.network.Handle:
    """The logit of "real": the same parameters for every call."""
    h = points
    for layer, units in enumerate((WIDTH, WIDTH, 1)):
        j = dr.indices(f"{'jkm'[layer]}:{units}")
        i = h.indices[-1]
        if len(weights) < 6:
            weights.extend((net.parameter(f"D{layer}", i, j), net.parameter(f"bias{layer}", j)))
        w, c = weights[2 * layer], weights[2 * layer + 1]
        b = h.indices[0]
        z = dr.sum(h[b, i] * w[i, j], i) + c[j]
        name = f"{stem}{layer}"
        h = net.define(name, (b, j), z if units == 1 else dr.leaky_relu(z, 0.2))
    return h


on_real, on_fake = discriminate(real, "r"), discriminate(fake, "f")
b, k = on_real.indices


def softplus(sign: int, z: dr.network.Handle) -> dr.network.Handle:
    """The cross-entropy of the logits ``-sign·z`` with the label 1."""
    return dr.mean(dr.softplus(sign * z[b, k]), b, k)


net.loss(softplus(-1, on_real) + softplus(1, on_fake), "L_D", wrt=weights)
net.loss(softplus(-1, on_fake), "L_G", wrt=[net[n] for n in made])


def ring(rng: np.random.Generator, count: int) -> np.ndarray:
    angle = 2 * np.pi * rng.integers(MODES, size=count) / MODES
    middle = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return middle + DEVIATION * rng.normal(size=(count, 2))


def quality(points: np.ndarray) -> tuple[int, float]:
    """How many middles have at least 1 % of the points near, and the share that is near one."""
    angle = 2 * np.pi * np.arange(MODES) / MODES
    middles = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    far = np.linalg.norm(points[:, None] - middles, axis=2)
    near = far.min(axis=1) < 3 * DEVIATION
    hits = np.bincount(far.argmin(axis=1)[near], minlength=MODES)
    return int((hits >= 0.01 * len(points)).sum()), float(near.mean())


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    program = net.program()
    judge, make = (dr.derive(program.only(loss)) for loss in ("L_D", "L_G"))
    judge.document(out / "gan_discriminator.html", force=True)
    make.document(out / "gan_generator.html", force=True)
    D, G = (codegen.compile(d, optimizer=dr.adam(lr=RATE, beta1=0.5), parallel=False)
            for d in (judge, make))
    D.initialize(seed=0)
    G.initialize(seed=0)
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        for model in (D, G):
            model.set(lr=RATE * (1 - step / STEPS))
        for name in made:  # each has a buffer of its own: hand over what the other one changed
            D.parameters[name][...] = G.parameters[name]
        D.step(real=ring(rng, BATCH), noise=rng.normal(size=(BATCH, NOISE)))
        for w in weights:
            G.parameters[w.name][...] = D.parameters[w.name]
        G.step(noise=rng.normal(size=(BATCH, NOISE)))
    points = G.predict(outputs=[fake.name], noise=rng.normal(size=(4000, NOISE)))[fake.name]
    modes, share = quality(points)
    print(f"{modes} of {MODES} modes, {100 * share:.1f} % of samples within 3 deviations; "
          f"true samples: {100 * quality(ring(rng, 4000))[1]:.1f} %")
    assert modes == MODES and share > 0.85


if __name__ == "__main__":
    main()
