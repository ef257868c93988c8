"""The scale of adjoints that are stored in 16 bits, and how it changes: equations, as a rule's are.

float16 ends at 6e-8 below and at 65504 above. Adjoints are stored times a scale that is doubled
after so many steps whose gradients are all finite, and halved, with the step left out, where one is
not (Micikevicius et al., "Mixed precision training", 2018, section 3.2). bfloat16 has the range of
single precision; its scale is 1.
"""

from __future__ import annotations

import sympy
from sympy import Integer

from derive.network import Network
from derive.nodes import Select
from derive.program import Program

SCALE, GOOD, BAD = "loss_scale", "good_steps", "bad"
INTERVAL = 2000  # steps
FIRST = {"float16": 2**15, "bfloat16": 1}
LARGEST = {"float16": 2**24, "bfloat16": 1}
SMALLEST = 2.0**-20  # below, it is not the range that makes a gradient infinite


def loss_scale(storage: str) -> Program:
    """The scalar states ``loss_scale`` and ``good_steps`` and their next values, given ``bad``,
    how many elements of the gradient are not finite.

    Args:
        storage: "float16" or "bfloat16".
    """
    net = Network("loss scale")
    scale = net.state(SCALE, initial=Integer(FIRST[storage]))  # type: ignore[arg-type]
    good = net.state(GOOD)
    bad = net.input(BAD).tensor.access
    enough = sympy.Ge(good.tensor.access + 1, INTERVAL)
    below = sympy.Lt(scale.tensor.access, LARGEST[storage])
    grown = Select(below, 2*scale.tensor.access, scale.tensor.access)
    whole = sympy.Gt(bad, 0)
    net.update(scale, Select(whole, scale.tensor.access/2,
                             Select(enough, grown, scale.tensor.access)))
    net.update(good, Select(sympy.Or(whole, enough), Integer(0), good.tensor.access + 1))
    return net.program()
