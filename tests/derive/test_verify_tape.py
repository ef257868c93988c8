"""The tape of a function's run: what is followed on it, and what its derivatives are."""

from __future__ import annotations

import time

import numpy as np
import pytest

import derive as dr
from derive.points import random_values
from derive.verify.deadline import Deadline
from derive.verify.events import Elsewhere, Event, Leaf, Site
from derive.verify.hand import Hand
from derive.verify.probe import run
from derive.verify.rerun import Base
from derive.verify.tape import NotReplayed, Tape


def network() -> dr.Network:
    net = dr.Network("one layer")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(x, 2, dr.tanh), t))
    return net


def backward(x, t, W1, c1):
    h = np.tanh(x @ W1 + c1)
    dz = np.zeros_like(h)
    for b in range(len(x)):
        dz[b] = (h[b] - t[b]) / len(x)
    dz *= 1 - h**2
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


@pytest.fixture(scope="module")
def taped() -> tuple[Hand, dict, dict, Tape]:
    derived = dr.derive(network())
    hand, point = Hand(backward, derived), random_values(derived, 1, {"B": 4})
    given, watched = run(hand, point, record=True, tape=True)
    tape = Tape.of(watched, watched.leaves, given)
    assert tape is not None
    return hand, point, given, tape


def site(tape: Tape, text: str) -> Site:
    found = {s.text: s for s in tape.sites}
    return found[text]


def test_a_tape_leads_to_the_gradients_of_the_run(taped):
    _, _, given, tape = taped
    read = tape.read(tape.values)
    assert all(np.array_equal(read[n], given[n]) for n in given)


@pytest.mark.parametrize("text", ["np.tanh(x @ W1 + c1)", "dz *= 1 - h**2", "h[b] - t[b]",
                                  "x @ W1"])
def test_a_change_that_is_followed_comes_to_what_the_function_gives(taped, text: str):
    hand, point, _, tape = taped

    def change(event: Event):
        return 1.5 * event.result()

    values = tape.replay(site(tape, text), change)
    assert values is not None
    truth, _ = run(hand, point, {site(tape, text): change})
    read = tape.read(values)
    assert all(np.allclose(read[n], truth[n], rtol=1e-13, atol=0) for n in truth)


def test_a_change_of_shape_is_not_followed(taped):
    with pytest.raises(NotReplayed):
        taped[3].replay(site(taped[3], "x @ W1"), lambda event: event.result()[:2])


def test_the_derivative_of_the_gradients_is_that_of_the_function(taped):
    hand, point, _, tape = taped
    where = site(tape, "np.tanh(x @ W1 + c1)")
    rows = tape.derivative([tape.gradients["W1"].ids])
    assert rows is not None
    columns = rows[:, tape.elements(where)]
    step = np.random.default_rng(2).normal(size=(4, 2))
    ends = [run(hand, point, {where: lambda e, s=s: e.result() + s * 1e-6 * step})[0]["W1"]
            for s in (1, -1)]
    assert np.allclose(columns @ step.ravel(), np.ravel(ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def test_gradients_are_linear_in_what_comes_back_from_the_loss_alone(taped):
    tape = taped[3]
    assert tape.linear(site(tape, "h[b] - t[b]"))
    assert tape.linear(site(tape, "dz *= 1 - h**2"))
    assert not tape.linear(site(tape, "x @ W1"))  # through tanh, and h**2


def test_what_is_written_elsewhere_is_not_followed(taped):
    tape = taped[3]
    write = next(s for s in tape.sites if s.text.startswith("dz[b]"))
    with pytest.raises(NotReplayed):
        tape.replay(write, lambda event: Elsewhere(event.args[0], 0))


def test_an_operation_is_known_by_its_line_and_columns(taped):
    where = site(taped[3], "x @ W1 + c1")
    first, start, last, end = where.span
    assert first == last == backward.__code__.co_firstlineno + 1
    assert "    h = np.tanh(x @ W1 + c1)"[start:end] == "x @ W1 + c1"


def test_a_leaf_reads_what_was_last_written_and_keeps_constants():
    leaf = Leaf((0,), np.array([2, -1, 0]), np.array([9.0, 8.0, 7.0]))
    assert leaf.read(np.array([10.0, 11.0, 12.0])).tolist() == [12.0, 8.0, 10.0]
    assert leaf.known.tolist() == [2, 0] and leaf.distinct


def test_a_changed_equation_is_evaluated_as_the_changed_program_is():
    derived = dr.derive(network())
    gradient = derived.gradients["W1"]
    places = [random_values(derived, n, {"B": 3 + n}) for n in range(2)]
    base = Base(derived, gradient, places)
    eq = derived.defined[derived.gradients["c1"].replace("c1", "z1")]
    changed = [*base.changed(eq.name, 2 * eq.body)]
    assert all(np.allclose(new, 2 * old) for new, old in zip(changed, base.values, strict=True))
    assert all(np.array_equal(point[gradient], old)
               for point, old in zip(base.points, base.values, strict=True))


def test_a_deadline_is_of_processor_time_and_has_parts(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    deadline = Deadline(4.0)
    part, whole = deadline.part(2.0), deadline.part(10.0)
    assert (part.end, whole.end) == (102.0, 104.0)
    assert not deadline.passed()
    now[0] = 103.0
    assert Deadline(-1.0).passed() and any(part.passed() for _ in range(16))
    assert not any(deadline.passed() for _ in range(16))
