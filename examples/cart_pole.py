"""A pole on a cart, from the published equations (Barto, Sutton and Anderson 1983), compiled.

The cart is pushed left or right with 10 N every 0.02 s; an episode ends when the pole leans more
than 12 degrees, the cart leaves its 2.4 m on either side, or after 500 steps. Friction is that of
the paper. The task counts as solved where 100 episodes last 475 steps on average (195 of 200 in
the older form).

    python examples/cart_pole.py

What two plain policies reach: pushing at random lasts 22 steps, pushing to the side to which the
pole leans 43 steps. `reinforce.py` and `actor_critic.py` learn better ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

GRAVITY, CART, POLE, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5  # m/s², kg, kg, m
CART_FRICTION, PIVOT_FRICTION = 0.0005, 0.000002
PUSH, SECONDS, LIMIT = 10.0, 0.02, 500
LEAN, TRACK = 12 * np.pi / 180, 2.4

Policy = Callable[[np.ndarray], np.ndarray]  # (carts, 4) → probability of a push to the right


@njit(cache=True)
def advance(state: np.ndarray, right: np.ndarray) -> None:
    """One step of Euler's method for each row (place, speed, angle, angular speed), in place."""
    total = CART + POLE
    for n in range(state.shape[0]):
        x, dx, a, da = state[n]
        force = PUSH if right[n] else -PUSH
        swing = POLE * HALF_LENGTH * da * da * np.sin(a)
        inner = (-force - swing + CART_FRICTION * np.sign(dx)) / total
        drag = PIVOT_FRICTION * da / (POLE * HALF_LENGTH)
        dda = (GRAVITY * np.sin(a) + np.cos(a) * inner - drag) / (
            HALF_LENGTH * (4 / 3 - POLE * np.cos(a) ** 2 / total))
        ddx = (force + swing - POLE * HALF_LENGTH * dda * np.cos(a)
               - CART_FRICTION * np.sign(dx)) / total
        state[n, 0], state[n, 1] = x + SECONDS * dx, dx + SECONDS * ddx
        state[n, 2], state[n, 3] = a + SECONDS * da, da + SECONDS * dda


def start(rng: np.random.Generator, carts: int) -> np.ndarray:
    return rng.uniform(-0.05, 0.05, (carts, 4))


def fallen(state: np.ndarray) -> np.ndarray:
    return (np.abs(state[:, 0]) > TRACK) | (np.abs(state[:, 2]) > LEAN)


@dataclass(frozen=True)
class Episodes:
    """States (steps, carts, 4) before each push, the pushes, and which episodes were still going
    on then (both (steps, carts))."""

    states: np.ndarray
    pushes: np.ndarray
    going: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.going.sum(axis=0)


def play(policy: Policy, rng: np.random.Generator, carts: int) -> Episodes:
    """An episode with each of several carts side by side."""
    state, going = start(rng, carts), np.ones(carts, bool)
    states, pushes, alive = [], [], []
    while going.any() and len(states) < LIMIT:
        right = rng.uniform(size=carts) < policy(state)
        states.append(state.copy())
        pushes.append(right)
        alive.append(going)
        advance(state, right)
        going = going & ~fallen(state)
    return Episodes(np.array(states), np.array(pushes, np.int64), np.array(alive))


def mean_length(policy: Policy, seed: int, carts: int = 100) -> float:
    return float(play(policy, np.random.default_rng(seed), carts).lengths.mean())


def main() -> None:
    random = mean_length(lambda s: np.full(len(s), 0.5), seed=0, carts=1000)
    leaning = mean_length(lambda s: (s[:, 2] > 0).astype(float), seed=0, carts=1000)
    print(f"mean length of 1000 episodes: {random:.1f} pushed at random, "
          f"{leaning:.1f} pushed to where the pole leans")
    assert random < leaning < 100


if __name__ == "__main__":
    main()
