"""Mistakes of the article that this project grew from, handed to `verify`, one by one.

`mistakes.py` has each of them as a function, with what the report must say of it: which factor of
which term, and the formula or the line as it should be. Sections 3.2 and 4.2 are handed in whole as
well, where several mistakes lie on one path.

At the end the article's claim that back-propagation costs exponentially much with depth is settled
by counting and by measuring (`depth.py`).

python examples/article/main.py
"""

from collections.abc import Callable
from functools import cache

import depth
from mistakes import MISTAKES

import derive as dr


@cache
def findings(network: Callable[[], dr.Network], hand: Callable[..., object]) -> dict[str, str]:
    """What `verify` says of each wrong gradient, or, under "refused", why it refuses them."""
    try:
        report = dr.verify(network(), hand)
    except dr.ChainruleError as error:
        return {"refused": str(error)}
    assert report.verdict == "wrong", report
    return {f.parameter: str(f) for f in report.findings}


def main() -> None:
    for mistake in MISTAKES:
        hand, network = mistake.hand, mistake.network().name
        print(f"{network}, {hand.__name__}: {' '.join(hand.__doc__.split())}\n")
        found = findings(mistake.network, hand)
        for name in mistake.wrong:
            said = found[name]
            print(f"{said}\n")
            assert mistake.said in said and mistake.right in said, mistake
    depth.main()


if __name__ == "__main__":
    main()
