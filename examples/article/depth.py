"""Does the cost of back-propagation grow exponentially with depth? Counted and measured.

The article says so twice (sections 1.1 and 3.2). Counted are the operations of the derived
programs, forward and backward, for 1 to 100 layers; measured is one call of the emitted kernel.
What does grow exponentially is the number of paths from a weight to the loss: whoever multiplies
each of them out by itself pays for all of them, and back-propagation exists so that nobody has to.
"""

import time

import numpy as np

import codegen
import derive as dr
from derive.cost import equation_cost, total_cost

WIDTH, BATCH = 16, 32
COUNTED = (1, 2, 3, 5, 10, 20, 50, 100)
TIMED = (1, 5, 10, 20)


def network(depth: int) -> dr.Network:
    """``depth`` tanh layers of the same width and a squared error."""
    net = dr.Network(f"{depth} layers")
    x, t = net.input("x", "B", WIDTH), net.input("t", "B", WIDTH)
    h = x
    for _ in range(depth):
        h = dr.dense(h, WIDTH, dr.tanh)
    net.loss(dr.squared_error(h, t))
    return net


def operations(depth: int) -> tuple[int, int]:
    """Operations of the forward and of the backward equations, functions included."""
    derived = dr.derive(network(depth))
    forward = {eq.name for eq in derived.forward.equations}
    found = []
    for inside in (True, False):
        cost = total_cost(equation_cost(eq, derived) for eq in derived.equations
                          if (eq.name in forward) == inside)
        count = (cost.operations + cost.functions).subs(dict.fromkeys(derived.sizes, BATCH))
        found.append(int(count))
    return found[0], found[1]


def seconds(depth: int) -> float:
    """The fastest of many calls of the emitted gradient kernel, on one thread."""
    model = codegen.compile(dr.derive(network(depth)), dtype="float32", parallel=False)
    model.initialize(0)
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(2, BATCH, WIDTH)).astype(np.float32)
    best = np.inf
    for _ in range(300):
        start = time.perf_counter()
        model.gradients(x=x, t=t)
        best = min(best, time.perf_counter() - start)
    return best


def path_by_path(weights: list[np.ndarray], unit: int) -> tuple[float, int]:
    """The derivative of the sum of the last layer's units with respect to one unit of the first,
    the chain rule written out along every path (linear layers), and the products that it took."""
    if not weights:
        return 1.0, 0
    total, products = 0.0, 0
    for k, w in enumerate(weights[0][unit]):
        rest, inner = path_by_path(weights[1:], k)
        total += w * rest
        products += inner + 1
    return total, products


def main() -> None:
    print(f"Does the cost of back-propagation grow exponentially with depth?\n\n{WIDTH} units a "
          f"layer, a batch of {BATCH}: operations of the derived equations\n")
    print(f"{'layers':>6} {'forward':>10} {'backward':>10} {'backward/forward':>17}")
    counts = {depth: operations(depth) for depth in COUNTED}
    for depth, (forward, backward) in counts.items():
        print(f"{depth:6} {forward:10,} {backward:10,} {backward / forward:17.3f}")
    first, last = counts[COUNTED[0]][1], counts[COUNTED[-1]][1]
    slope = (last - first) // (COUNTED[-1] - COUNTED[0])
    assert all(first + slope * (depth - 1) == counts[depth][1] for depth in COUNTED)
    print(f"\nEvery further layer costs {slope:,} operations backward, no more at 100 layers than "
          "at 2: linear, to the last operation, and less than twice the forward pass.")

    print("\nOne call of the emitted kernel (forward and backward, one thread):\n")
    for depth in TIMED:
        took = seconds(depth)
        print(f"{depth:6} layers {1e6 * took:8.1f} µs, {1e6 * took / depth:6.1f} µs a layer")

    print("\nThe chain rule along every path by itself, 3 units a layer, against the same number "
          "from\nback-propagation (products of both):\n")
    rng = np.random.default_rng(0)
    for depth in (2, 4, 6, 8, 10):
        weights = [rng.normal(size=(3, 3)) for _ in range(depth)]
        value, products = path_by_path(weights, 0)
        adjoint = np.ones(3)
        for w in reversed(weights):
            adjoint = w @ adjoint
        assert np.isclose(value, adjoint[0])
        print(f"{depth:6} layers {products:8,} products along paths, {9 * depth:4} by adjoints")
    print("\nExponential is what back-propagation avoids, not what it costs.\n")


if __name__ == "__main__":
    main()
