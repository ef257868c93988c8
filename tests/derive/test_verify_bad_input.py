"""What is no gradient is refused with an error that says what came and how to mend it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import derive as dr
from derive.errors import ChainruleError
from derive.verify import verify
from derive.verify.hand import HandError
from tests.derive.test_verify import by_hand, network


def raises(x, t, W1, c1, W2, c2):
    return x @ W2


def unknown(x, t, W3):
    return W3


def too_few(x, t, W1, c1, W2, c2):
    return W1, c1


def missing_one(x, t, W1, c1, W2, c2):
    return {"W1": W1, "c1": c1, "W2": W2}


def transposed(x, t, W1, c1, W2, c2):
    return {"W1": W1.T, "c1": c1, "W2": W2, "c2": c2}


def unsummed(x, t, W1, c1, W2, c2):
    return {"W1": W1, "c1": np.tanh(x @ W1 + c1), "W2": W2, "c2": c2}


def in_place(x, t, W1, c1, W2, c2):
    x *= 2
    return {"W1": W1, "c1": c1, "W2": W2, "c2": c2}


def random(x, t, W1, c1, W2, c2):
    return {"W1": np.random.default_rng().normal(size=W1.shape), "c1": c1, "W2": W2, "c2": c2}


def infinite(x, t, W1, c1, W2, c2):
    return {"W1": W1 / 0.0, "c1": c1, "W2": W2, "c2": c2}


def nothing(x, t, W1, c1, W2, c2):
    W1 + 1


def not_real(x, t, W1, c1, W2, c2):
    return {"W1": W1 + 1j, "c1": c1, "W2": W2, "c2": c2}


def truth_values(x, t, W1, c1, W2, c2):
    return {"W1": W1 > 0, "c1": c1, "W2": W2, "c2": c2}


def holds_none(x, t, W1, c1, W2, c2):
    return {"W1": None, "c1": c1, "W2": W2, "c2": c2}


def one_text(x, t, W1, c1, W2, c2):
    return "W1, c1, W2, c2"


def generator(x, t, W1, c1, W2, c2):
    yield from (W1, c1, W2, c2)


async def asynchronous(x, t, W1, c1, W2, c2):
    await asyncio.sleep(0)
    return W1, c1, W2, c2


def of_no_name(*args):
    return args[2:]


def ends_the_program(x, t, W1, c1, W2, c2):
    sys.exit("no more")


def endless(x, t, W1, c1, W2, c2):
    return endless(x, t, W1, c1, W2, c2)


class Network:
    def __init__(self, x, t, W1, c1, W2, c2):
        self.weights = W1, W2


BAD: list[tuple[Any, tuple[str, ...]]] = [
    (raises, ("raises raises ValueError", "return x @ W2")),
    (unknown, ("'W3'", "did you mean 'W")),
    (too_few, ("returns 2 gradients", "4: W1, c1, W2, c2")),
    (missing_one, ("no gradient of 'c2'",)),
    (transposed, ("'W1'", "(3, 5)", "(5, 3)", "transposed")),
    (unsummed, ("'c1'", "sum it over the batch")),
    (in_place, ("changes its input 'x'", "copy")),
    (random, ("random", "'W1'")),
    (infinite, ("'W1'", "inf")),
    (nothing, ("returns nothing", "return them")),
    (not_real, ("no array of real numbers", "complex128")),
    (truth_values, ("no array of real numbers", "bool")),
    (holds_none, ("'W1'", "no array of real numbers", "None")),
    (one_text, ("returns 1 gradient\n", "str of 1")),
    (generator, ("is a generator", "return all gradients")),
    (asynchronous, ("is asynchronous", "write def")),
    (of_no_name, ("does not say what it takes", "x, W1, c1, W2, c2, t")),
    (ends_the_program, ("raises SystemExit: no more", "sys.exit(")),
    (endless, ("RecursionError", "return endless")),
    (Network, ("Network is a class", "instance")),
    (3, ("no function", "got:      3")),
    (None, ("no function", "got:      None")),
]


@pytest.mark.parametrize(("function", "parts"), BAD,
                         ids=[getattr(f, "__name__", str(f)) for f, _ in BAD])
def test_a_function_that_is_no_gradient_is_refused(function: Callable, parts: tuple[str, ...]):
    with pytest.raises(HandError) as caught:
        verify(network(), function)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


class Layers:
    def backward(self, x, t, W1, c1, W2, c2):
        return by_hand()(x, t, W1, c1, W2, c2)

    __call__ = backward


def of_all(**tensors):
    return by_hand()(**tensors)


def of_two(parameters, inputs):
    return by_hand()(**parameters, **inputs)


def rounded(digits, x, t, W1, c1, W2, c2):
    return {n: np.round(g, digits) for n, g in by_hand()(x, t, W1, c1, W2, c2).items()}


@pytest.mark.parametrize("function", [
    Layers().backward, Layers(), of_all, of_two, partial(rounded, 16),
    lambda x, t, W1, c1, W2, c2: tuple(by_hand()(x, t, W1, c1, W2, c2).values()),
], ids=["a method", "an instance", "**tensors", "two dictionaries", "a partial", "a lambda"])
def test_whatever_can_be_called_with_the_networks_tensors_is_judged(function: Callable):
    assert verify(network(), function, seconds=0).verdict == "agrees"


def test_what_a_function_prints_is_shown_once(capsys):
    def backward(x, t, W1, c1, W2, c2):
        print("called")
        return by_hand(sign=True)(x, t, W1, c1, W2, c2)

    assert verify(network(), backward).verdict == "wrong"
    assert capsys.readouterr().out == "called\n"


TEXTS = [
    ("__import__('os').system('touch was_run')", "unexpected character"),
    ("d_W1[i, j] = __import__('os').system('touch was_run')", "unexpected character"),
    ("d_W1[i, j] = sum[b](x[b, i].__class__)", "unexpected character '.'"),
    ("d_W1[i, j] = 9**9**9**9", "exponent of a number is too large"),
    ("d_W1[i, j] = sum[b](q[b, i]*d_z1[b, j])", "'q' is not declared"),
    ("", "no equation is the gradient"),
    ("gradients/layers.tex", "Path("),
    (r"\frac{\partial L}{\partial W_1 = x^\top h_1", "{ is never closed"),
    (r"\frac{\partial L}{\partial W_1} = x^\top} h_1", "} closes nothing"),
    (r"\frac{\partial L}{\partial W_1} = q^\top h_1", "q is not declared"),
    (r"\frac{\partial L}{\partial W_1} = \write18{touch was_run}", r"\write18 is refused"),
    ({"W1": "__import__('os').system('touch was_run')"}, "no element of a trained parameter"),
]


@pytest.mark.parametrize(("text", "part"), TEXTS, ids=[str(t) for t, _ in TEXTS])
def test_a_text_that_is_no_derivation_is_refused_and_never_run(
        text: Any, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChainruleError) as caught:
        dr.verify(network(), text)
    assert part in str(caught.value), str(caught.value)
    assert list(tmp_path.iterdir()) == []
