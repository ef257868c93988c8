"""How many threads run an epoch's steps goes by their time: the policy, on a clock of the test's
(that no bit depends on it, test_compiled.py tests)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from codegen.module import environment

Cost = Callable[[int, float], float]  # of a step, by threads and the time of day


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crew(clock: Clock) -> Any:
    names: dict[str, Any] = {"math": math, "time": clock}
    exec(environment().get_template("cpu_crew.py.jinja").render(), names)
    return names["_Crew"](2)


def seconds(crew: Any, clock: Clock, cost: Cost, steps: int) -> SimpleNamespace:
    """What so many steps take, and the time that each number of threads has had."""
    begun, had = clock.now, {1: 0.0, 2: 0.0}
    expected = 0
    for members, first, last in crew.pieces(steps):
        assert first == expected < last
        assert last - first >= (crew.FEWEST if members == crew.current else 1) or last == steps
        expected = last
        for _ in range(first, last):
            had[members] += cost(members, clock.now)
            clock.now += cost(members, clock.now)
    assert expected == steps
    return SimpleNamespace(all=clock.now - begun, had=had)


@pytest.mark.parametrize("each", [1e-5, 3e-4, 5e-2])
def test_two_threads_that_are_faster_have_all_but_a_hundredth_of_the_time(crew, clock, each):
    found = seconds(crew, clock, lambda members, now: each*(3 - members), int(30/each))
    assert found.had[1] <= 0.011*found.all
    assert found.had[1] > 0


@pytest.mark.parametrize("each", [1e-5, 3e-4])
def test_one_thread_has_the_steps_that_two_are_slow_with(crew, clock, each):
    seconds(crew, clock, lambda members, now: each*members, int(2/each))
    found = seconds(crew, clock, lambda members, now: each*members, int(20/each))
    assert found.had[2] <= 0.011*found.all


@pytest.mark.parametrize("times", [2, 5, 45])
def test_a_core_that_is_taken_is_noticed_after_two_pieces_and_so_is_its_return(
        crew, clock, times):
    def cost(members: int, now: float) -> float:
        return 3e-4 if members == 1 else 2e-4*times if 10 <= now < 20 else 2e-4

    seconds(crew, clock, cost, 49000)
    clock.now = 10
    found = seconds(crew, clock, cost, int(9/3e-4))
    # the piece that was begun is not interrupted, and trials become rare
    assert found.had[2] < times*(0.011 + 0.002) + 0.05*found.all
    clock.now = 20
    seconds(crew, clock, cost, 7000)  # a hundred times as long as a trial took at most
    found = seconds(crew, clock, cost, 20000)
    assert found.had[1] <= 0.05*found.all


@pytest.mark.parametrize("times", [2, 5, 15])
def test_two_slow_pieces_and_a_trial_it_is(crew, clock, times):
    seconds(crew, clock, lambda members, now: 3e-4/members, 50000)
    crew.since, slow = 0.0, []
    for members, first, last in crew.pieces(10**6):
        if members == 1:
            break
        slow.append(members)
        clock.now += times*1.5e-4*(last - first)
    assert len(slow) == 2


def test_what_was_given_up_is_tried_again_soon(crew, clock):
    """A core that another has for a moment."""
    seconds(crew, clock, lambda members, now: 3e-4/members, 50000)
    seconds(crew, clock, lambda members, now: 1e-3 if members == 2 else 3e-4, 200)
    assert crew.current == 1
    found = seconds(crew, clock, lambda members, now: 3e-4/members, 1000)
    assert crew.current == 2 and found.had[1] < 0.05


@pytest.mark.parametrize("first", [1, 4, 10])
def test_the_first_step_of_a_trial_does_not_count(crew, clock, first):
    """It waits for what another core has in its caches."""
    before = [2]

    def cost(members: int, now: float) -> float:
        moved, before[0] = members != before[0], members
        return (first if moved else 1)*(4.5e-4 if members == 1 else 7.5e-4)

    begun = clock.now
    for members, low, high in crew.pieces(10**5):
        if crew.current == 1:
            break
        clock.now += sum(cost(members, clock.now) for _ in range(low, high))
    assert clock.now - begun < 0.4  # the first trial


def test_a_machine_that_is_slower_for_good_is_tried_as_rarely_as_before(crew, clock):
    seconds(crew, clock, lambda members, now: 3e-4/members, 50000)
    seconds(crew, clock, lambda members, now: 9e-4/members, 2000)
    found = seconds(crew, clock, lambda members, now: 9e-4/members, 20000)
    assert found.had[1] <= 0.011*found.all


def test_what_is_usual_is_not_what_the_first_piece_took(crew, clock):
    """It begins with a cold cache; no trial has renewed what is usual since."""
    crew.note(2, False, 10*0.01, 60)
    crew.note(2, False, 0.01, 60)
    for _ in range(2):
        assert crew.slow == 0
        crew.note(2, False, 0.01, 60)
    crew.note(2, False, 2*0.01, 60)
    assert crew.slow == 1


def test_a_slow_trial_is_no_slow_piece(crew, clock):
    crew.note(2, False, 0.01, 60)
    crew.note(1, True, 0.01, 60)
    crew.note(1, True, 0.1, 60)
    assert crew.slow == 0


def test_slow_pieces_count_that_follow_one_another(crew, clock):
    seconds(crew, clock, lambda members, now: 3e-4/members, 50000)
    for _ in range(5):
        crew.note(2, False, 0.1, 60)
        assert crew.slow == 1
        crew.note(2, False, 0.009, 60)
        assert crew.slow == 0


def test_one_slow_piece_changes_nothing(crew, clock):
    seconds(crew, clock, lambda members, now: 3e-4/members, 50000)
    crew.since = 0.0  # so that it is no trial that it meets
    hiccup = clock.now + 0.01
    found = seconds(crew, clock, lambda members, now: 0.1 if (
        hiccup <= now < hiccup + 0.1) else 3e-4/members, 500)
    assert found.had[1] == 0


def test_all_steps_are_run_whatever_their_number(crew, clock):
    for steps in (1, 2, 3, 1000, 1):
        seconds(crew, clock, lambda members, now: 1e-4, steps)
    assert list(crew.pieces(0)) == []
