"""What no algebra decides: exact residues with a bound of the probability of error, and digits."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

import derive as dr
from derive.verify.claim import Claim
from derive.verify.decide import combined, sizes_of
from derive.verify.evidence import evidence
from derive.verify.forms import Forms
from derive.verify.hand import Hand
from derive.verify.terms import Table
from derive.verify.trace import trace
from derive.verify.written import read_derivation
from tests.derive import verify_gradients_layers, verify_gradients_sequences
from tests.derive.verify_gradients import CASES

_MODULES = verify_gradients_layers, verify_gradients_sequences  # they fill CASES when imported


def found(claim: Claim, derived: dr.Program) -> dict[str, tuple[str, str]]:
    both = combined(claim, derived)
    pairs = {p: (target, derived.gradients[p]) for p, target in claim.gradients.items()}
    return evidence(both, pairs, sizes_of(both, claim))


@pytest.mark.parametrize("name", ["softmax_jacobian", "batch_norm_staged", "huber", "focal", "gru",
                                  "causal_attention"])
def test_right_gradients_agree_with_a_bound_of_the_probability_of_error(name):
    net, function = CASES[name]
    derived = dr.derive(net())
    for verdict, note in found(trace(Hand(function, derived), derived), derived).values():
        assert verdict == "agrees"
        (power,) = re.findall(r"the probability of that, .*, is below 1e-(\d+)$", note)
        assert int(power) >= 15
        assert "random rational points with B = 3, modulo a random prime" in note


def line(loss: str = "(z[b, j] - t[b, j])**2/2") -> dr.Network:
    return dr.parse_network(f"""\
network "line"
index b:B i:2 j:2
input x[b, i]
input t[b, j]
parameter W[i, j]
z[b, j] = sum[i](x[b, i]*W[i, j])
loss L = mean[b, j]({loss})
""")


def said(written: str, net: dr.Network) -> tuple[str, str]:
    derived = dr.derive(net)
    return found(read_derivation(written, derived), derived)["W"]


def test_a_relative_error_of_1e_30_is_seen_in_the_digits():
    verdict, note = said("d_W[i, j] = sum[b](x[b, i]*(z[b, j] - t[b, j]))*(1 + 1/10**30)/(2*B)",
                         line())
    assert verdict == "differs" and "1.0e-30" in note


def test_a_relative_error_of_1e_45_is_seen_in_the_residues():
    verdict, note = said("d_W[i, j] = sum[b](x[b, i]*(z[b, j] - t[b, j]))*(1 + 1/10**45)/(2*B)",
                         line())
    assert verdict == "agrees" and "without a bound" in note and "the residues differ" in note


def test_what_is_equal_by_a_law_that_is_not_known_has_no_bound():
    written = "d_W[i, j] = sum[b](x[b, i]*(1 - sin(z[b, j])**2 - cos(z[b, j])**2 + 1))/(2*B)"
    verdict, note = said(written, line("z[b, j] + 0*t[b, j]"))
    assert verdict == "agrees" and "the residues differ" in note


def test_the_sign_of_a_root_is_decided_by_the_digits():
    """The root of a square is its value up to the sign: in residues both are the same."""
    right = "d_W[i, j] = sum[b](x[b, i]*sqrt((z[b, j] - t[b, j])**2))/(2*B)"
    assert said(right, line())[0] == "differs"


def test_a_bound_is_of_the_pieces_of_conditions_that_the_points_lie_in():
    """A clipped gradient is the gradient where it is small, and the points say no more."""
    net, function = CASES["softmax_difference"]
    derived = dr.derive(net())

    def clipped(x, t, W1, c1):
        return {n: np.clip(g, -5, 5) for n, g in function(x, t, W1, c1).items()}

    for verdict, note in found(trace(Hand(clipped, derived), derived), derived).values():
        assert verdict == "agrees" and "on the pieces that these points lie in" in note


def test_the_algebra_does_not_take_the_root_of_a_square_for_its_base():
    forms = Forms(Table())
    base = forms.factor("T", "x", ())
    for e, q in ((2, Fraction(1, 2)), (-2, Fraction(-1, 2)), (4, Fraction(1, 4))):
        assert forms.power(forms.power(base, Fraction(e)), q) != base
    assert forms.power(forms.power(base, Fraction(3, 2)), Fraction(2, 3)) == base


def test_where_a_root_of_a_square_agrees_the_bound_is_of_the_sign_that_it_has_there():
    """A state is drawn between 0.5 and 1.5: the root of its square is the state there alone."""
    net = dr.parse_network("""\
network "scaled"
index b:B i:3
input x[b, i]
state c[i]
parameter W[i]
loss L = sum[b, i](x[b, i]*W[i]*c[i])
""")
    verdict, note = said("d_W[i] = sum[b](x[b, i])*sqrt(c[i]**2)", net)
    assert verdict == "agrees" and "on the pieces that these points lie in" in note
