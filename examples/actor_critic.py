"""An actor and a critic on a pole on a cart: two losses, each with the parameters it changes.

The critic estimates how many steps, discounted, will follow on a state. The actor's push is weighed
by how much better things went than the critic expected: by sums of the critic's one-step errors
(generalised advantage estimation, Schulman et al. 2016), over stretches of 32 steps of 16 carts, so
that it learns while episodes go on (Konda and Tsitsiklis 2000).

    python examples/actor_critic.py

After 205,000 pushes, 100 new episodes last 500.0 steps of at most 500. The task counts as solved
from 475 on; pushing at random lasts 22 steps.
"""

import sys
from pathlib import Path

import numpy as np

import codegen
import derive as dr

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cart_pole import (
    LIMIT,
    Policy,
    advance,
    fallen,
    mean_length,
    start,
)

DISCOUNT, TRACE, CARTS, STRETCH, UPDATES = 0.99, 0.95, 16, 32, 400
RATE, CRITIC_STEPS = 1e-2, 4

net = dr.Network("actor and critic")
x, a, g = net.input("x", "B", 4), net.input("a", "B", dtype=int), net.input("g", "B")
z = dr.dense(dr.dense(x, 32, dr.tanh), 2)
actor = [t.name for t in net.program().parameters]
target = net.input("target", "B", 1)
v = dr.dense(dr.dense(x, 32, dr.tanh), 1)
critic = [t.name for t in net.program().parameters if t.name not in actor]
b, k = z.indices
net.loss(dr.mean(g[b] * (dr.logsumexp(z[b, k], k) - z[b, a[b]]), b), "L_actor",
         wrt=[net[n] for n in actor])
net.loss(dr.mean_squared_error(v, target), "L_critic", wrt=[net[n] for n in critic])


class Learner:
    """Both networks, and the carts that they drive."""

    def __init__(self, seed: int) -> None:
        losses = (net.program().only(loss) for loss in ("L_actor", "L_critic"))
        self.actor, self.critic = (
            codegen.compile(dr.derive(one), optimizer=dr.adam(lr=RATE), parallel=False)
            for one in losses)
        self.actor.initialize(seed)
        self.critic.initialize(seed)
        self.rng = np.random.default_rng(seed)
        self.state, self.age = start(self.rng, CARTS), np.zeros(CARTS, int)

    def right(self, state: np.ndarray) -> np.ndarray:
        """The probability of a push to the right."""
        logit = self.actor.predict(outputs=[z.name], x=state)[z.name]
        return 1 / (1 + np.exp(logit[:, 0] - logit[:, 1]))

    def value(self, state: np.ndarray) -> np.ndarray:
        """In units of the longest discounted episode, 1/(1 - discount)."""
        return self.critic.predict(outputs=[v.name], x=state)[v.name][:, 0]

    def stretch(self) -> None:
        """Drive on for some steps and learn from them."""
        states, after = (np.empty((STRETCH, CARTS, 4)) for _ in range(2))
        pushes = np.empty((STRETCH, CARTS), np.int64)
        ended, cut = (np.empty((STRETCH, CARTS), bool) for _ in range(2))
        for t in range(STRETCH):
            states[t] = self.state
            pushes[t] = self.rng.uniform(size=CARTS) < self.right(self.state)
            advance(self.state, pushes[t])
            after[t], self.age = self.state, self.age + 1
            ended[t] = fallen(self.state)
            cut[t] = ended[t] | (self.age >= LIMIT)
            self.state[cut[t]] = start(self.rng, int(cut[t].sum()))
            self.age[cut[t]] = 0
        flat = states.reshape(-1, 4)
        expected = self.value(flat).reshape(STRETCH, CARTS)
        reached = self.value(after.reshape(-1, 4)).reshape(STRETCH, CARTS)
        error = (1 - DISCOUNT) + DISCOUNT * reached * ~ended - expected
        gain = np.zeros((STRETCH + 1, CARTS))
        for t in range(STRETCH - 1, -1, -1):
            gain[t] = error[t] + DISCOUNT * TRACE * gain[t + 1] * ~cut[t]
        gain = gain[:-1]
        for _ in range(CRITIC_STEPS):
            self.critic.step(x=flat, target=(expected + gain).reshape(-1, 1))
        self.actor.step(x=flat, a=pushes.reshape(-1), g=(gain / (gain.std() + 1e-8)).reshape(-1))


def train(seed: int) -> Policy:
    learner = Learner(seed)
    for update in range(UPDATES):
        for model in (learner.actor, learner.critic):
            model.set(lr=RATE * (1 - update / UPDATES))
        learner.stretch()
        if (update + 1) % 100 == 0:
            print(f"update {update + 1}: episodes of {mean_length(learner.right, 1, 20):.0f} steps")
    return learner.right


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    for loss in ("L_actor", "L_critic"):
        dr.derive(net.program().only(loss)).document(out / f"actor_critic_{loss}.html", force=True)
    length = mean_length(train(seed=0), seed=1000)
    print(f"mean length of 100 new episodes: {length:.1f} steps of at most {LIMIT}")
    assert length >= 475


if __name__ == "__main__":
    main()
