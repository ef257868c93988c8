"""The vector mathematics of kernels in single precision: within 4 units in the last place, NaN and
infinity as IEEE 754 has them. The whole range is tried by ``benchmarks/vector_math.py --every 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import sympy
from numba import njit
from sympy.codegen.cfunctions import expm1, log1p

import codegen
import derive as dr
from derive import functions as elementary
from derive.functions import Elementary, sample_settings
from derive.nodes import Select

# the function declared, and the exact one
FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "exp": (sympy.exp, np.exp), "expm1": (expm1, np.expm1),
    "log": (sympy.log, np.log), "log1p": (log1p, np.log1p), "tanh": (sympy.tanh, np.tanh),
    "erf": (sympy.erf, scipy.special.erf), "erfc": (sympy.erfc, scipy.special.erfc),
}
# where the largest errors of the whole range are, and where one formula gives way to the next
HARD = (0.0, 0.25, 0.44355845, 0.47285324, 0.49856290, 0.5, 0.6, 0.6054, 0.69905573, 0.70710678,
        1.0, 1.3177167, 3.1679745, 6.6313963, 6.9846139, 7.0869584, 9.12, 10.05, 11.0, 17.001972,
        59.944431, 87.336, 88.7228, 89.0, 103.97, 104.0)


@pytest.fixture(scope="module")
def functions(tmp_path_factory) -> dict[str, Callable]:
    net = dr.Network("vector mathematics")
    i = dr.indices("i:5")
    x = net.parameter("x", i)[i]
    net.loss(dr.sum(sum(f(x) for f, _ in FUNCTIONS.values()), i))
    kernels = codegen.compile(dr.derive(net), directory=tmp_path_factory.mktemp("kernels"),
                              parallel=False).kernels

    def loop(function: Callable) -> Callable:
        @njit
        def run(values: np.ndarray) -> np.ndarray:
            out = np.empty_like(values)
            for n in range(values.size):
                out[n] = function(values[n])
            return out

        return run

    return {name: loop(getattr(kernels, f"fast_{name}")) for name in FUNCTIONS}


def sample() -> np.ndarray:
    """Every 49,999th number, and some thousands about each place that is hard."""
    bits = [np.arange(0, 2**32, 49_999, dtype=np.uint64).astype(np.uint32)]
    for place in HARD:
        for sign in (1.0, -1.0):
            at = int(np.float32(sign * place).view(np.uint32))
            bits.append(np.arange(max(at - 2000, 0), at + 2000, dtype=np.uint64)
                        .astype(np.uint32))
    return np.concatenate(bits).view(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_four_units_in_the_last_place(name, functions):
    values = sample()
    found = functions[name](values)
    with np.errstate(all="ignore"):
        right = FUNCTIONS[name][1](values.astype(np.float64))
        single = right.astype(np.float32)
    finite = np.isfinite(single)
    same = (found == single) | (np.isnan(found) & np.isnan(single))
    assert same[~finite].all(), values[~finite & ~same][:3]
    with np.errstate(invalid="ignore"):
        error = np.abs(found - right)[finite] / np.spacing(np.abs(single[finite]))
    worst = int(error.argmax())
    assert error[worst] <= 4, f"{name}({values[finite][worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_infinity_and_zero(name, functions):
    values = np.array([math.nan, math.inf, -math.inf, 0.0, -0.0], np.float32)
    with np.errstate(all="ignore"):
        right = FUNCTIONS[name][1](values)
    np.testing.assert_array_equal(functions[name](values), right)


@pytest.mark.parametrize("kind", [k for k in vars(elementary).values() if isinstance(k, type)
                                  and issubclass(k, Elementary) and k is not Elementary])
def test_no_choice_computes_a_function_in_both_sides(kind):
    """In vectors both sides are computed: once more, though a branch would have taken one."""
    x = sympy.Symbol("x", real=True)
    for choice in kind.stable(x, *sample_settings(kind)).atoms(Select):
        assert not choice.yes.atoms(sympy.Function) & choice.no.atoms(sympy.Function)
