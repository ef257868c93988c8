"""What can be computed next: found by readiness, in time linear in the depth of a network."""

from __future__ import annotations

import cProfile
import pstats

import pytest
import sympy

import derive as dr
from codegen.recompute import again, copy_of, kept_tensors
from codegen.schedule import choose_batch, make_schedule
from codegen.worklist import Worklist
from derive.nodes import Access
from derive.program import Group, Program
from tests.codegen.test_columns import normalised

DEEP = {depth: dr.derive(normalised(depth)) for depth in (10, 20)}


def copied(program: Program) -> Program:
    """All that the backward pass reads is computed again in it."""
    batch = choose_batch(program)
    assert batch is not None
    return again(program, kept_tensors(program, batch), batch)


def calls(program: Program, columns: bool) -> int:
    """Function calls that scheduling a program takes: its work, in other words, but time."""
    groups, given, profile = program.groups, program.given, cProfile.Profile()
    assert groups and given  # looked up before, as they are kept
    make_schedule(program, columns=columns)  # what is looked up once is known
    profile.runcall(make_schedule, program, columns=columns)
    return int(pstats.Stats(profile).total_calls)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("way", [lambda program: program, copied], ids=["kept", "again"])
def test_twice_the_layers_take_twice_the_work(way, columns):
    few, many = (calls(way(program), columns) for program in DEEP.values())
    assert many < 2.1*few


def chain() -> tuple[Program, Program]:
    """h1 → h2 → h3 of which the backward pass reads copies of h1 and h2."""
    net = dr.Network("chain")
    h = net.input("x", "B", 3)
    for _ in range(3):
        h = dr.dense(h, 3, dr.tanh)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 3)))
    program = dr.derive(net)
    return program, copied(program)


def names(groups) -> list[str]:
    return [group.equations[0].name for group in groups]


def test_what_reads_only_what_is_taken_is_offered_behind_it_and_nothing_is_done():
    program, _ = chain()
    todo, offered = Worklist(program.groups, (t.name for t in program.given)), []
    for _ in range(2):
        offered.append([])
        todo.offer(lambda group: not offered[-1].append(group))
        assert todo.left == len(program.groups)
    assert names(offered[0]) == names(offered[1]) == names(program.groups)
    todo.offer(lambda group: offered[-1].append(group) or False)
    assert len(offered[-1]) == len(program.groups) + 1  # the first alone reads what is given


def test_what_is_finished_is_not_offered_again_and_frees_what_reads_it():
    program, _ = chain()
    first, second, *_ = program.groups
    todo, offered = Worklist(program.groups, (t.name for t in program.given)), []
    todo.offer(lambda group: offered.append(group) or False, ahead=[first])
    assert offered == [second]
    todo.finish([first])
    todo.offer(lambda group: offered.append(group) or False)
    assert offered == [second]*2 and todo.left == len(program.groups) - 1
    assert first.equations[0].name in todo.done


def test_what_stands_before_what_it_reads_waits_for_the_next_phase():
    """The equations of a sweep stand where its last one does."""
    program, _ = chain()
    first, second, *_ = program.groups
    todo, offered = Worklist([second, first], (t.name for t in program.given)), []
    todo.offer(lambda group: not offered.append(group))
    assert offered == [first]
    todo.finish(offered)
    todo.offer(lambda group: not offered.append(group))
    assert offered == [first, second]


def test_a_copy_that_is_made_frees_its_readers_once():
    i = dr.indices("i:3")

    def group(name: str, *reads: str, origin: tuple[str, str] | None = None) -> Group:
        body = sympy.Add(*(Access(read, i) for read in reads))
        return Group((dr.Equation(dr.Tensor(name, (i,), origin=origin), (i,), body),))

    copy, other = group("c", "x", origin=("again", "h")), group("d", "x")
    reader = group("r", "c", "d")
    todo, offered = Worklist([copy, other, reader], ["x"]), []
    todo.finish([copy])
    todo.offer(lambda one: offered.append(one) or False)
    assert offered == [other]
    todo.finish([other])
    todo.offer(lambda one: offered.append(one) or False)
    assert offered == [other, reader]


def test_copies_are_not_offered_but_come_along_each_behind_what_it_reads():
    program, whole = chain()
    made = [g for g in whole.groups if g.equations[0].tensor.origin is not None
            and g.equations[0].tensor.origin[0] == "again"]
    assert len(made) >= 2
    assert names(made) == [copy_of(g.equations[0].tensor.origin[1], program).name for g in made]
    todo, offered = Worklist(whole.groups, (t.name for t in whole.given)), []
    todo.offer(lambda group: not offered.append(group))
    assert set(names(offered)) == set(names(whole.groups)) - set(names(made))
    reader = max(offered, key=lambda group: len(todo.copies(group)))
    asked = todo.copies(reader)
    assert len(asked) > 1 and names(asked) == [n for n in names(made) if n in names(asked)]
    assert todo.copies(reader, names(asked[:1])) == asked[1:]
    todo.finish([*offered[:offered.index(reader)], *asked])
    assert not todo.copies(reader)
