"""Recurrences so that their steps are fast: program → program with the same values.

A step is taken once for every value of the recurrence's index, with few rows, so what is done
besides its product counts:

- *turned*: a weight that a step's product reads by columns is copied once for all steps, so that it
  lies in rows there: ``W[q,k,a] = V[a,q,k]`` for ``sum over q, k of ( dz[b,t+1,q,k] * V[a,q,k] )``;
- *within*: what a step makes for one other equation of the same step, element for element, is
  computed there, and stored nowhere;
- *onto*: a sum of a product and of what was computed for all steps beforehand begins with the
  latter, in its place (`Tensor.origin` is ("onto", its name)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from sympy import Add, Expr

from codegen.contraction import conjuncts, contraction, factor_and_sum, guarded, strides
from codegen.packed import packed_name
from derive.nodes import Access, Index, Reduction, Select, accesses, alpha_rename, rename
from derive.program import Equation, Group, Program, Tensor

MANY = 4  # steps from which on a copy for all of them pays


def stepped(program: Program, wanted: Collection[str]) -> Program:
    """The program with its recurrences so; ``wanted`` tensors are looked at when all is done."""
    if not any(group.recurrent for group in program.groups):
        return program
    return _onto(_turned(_within(program, wanted)), wanted)


def begins_with(eq: Equation) -> str | None:
    """The tensor that an equation's target begins with, in the place where that lies."""
    origin = eq.tensor.origin
    return origin[1] if origin is not None and origin[0] == "onto" else None


def _recurrent(program: Program) -> Iterator[tuple[Group, Equation]]:
    return ((g, eq) for g in program.groups if g.recurrent for eq in g.equations)


def _with(program: Program, changed: dict[str, Sequence[Equation]]) -> Program:
    """The program with equations in the place of others."""
    made = tuple(e for eq in program.equations for e in changed.get(eq.name, (eq,)))
    own = {eq.name: eq.tensor for eq in made}
    gone = program.defined.keys() - own.keys()
    kept = {n: t for n, t in program.tensors.items() if n not in gone}
    return replace(program, tensors={**kept, **own}, equations=made)


# -- within a step ---------------------------------------------------------------------------------
def _within(program: Program, wanted: Collection[str]) -> Program:
    found = program
    for _, eq in _recurrent(program):
        if eq.name not in wanted:
            found = _into_its_reader(found, eq.name)
    return found


def _into_its_reader(program: Program, name: str) -> Program:
    """The program without a tensor that one equation, of the same step then, reads once, as it is:
    each equation of a recurrence is read by another one of it."""
    eq = program.defined[name]
    readers = [e for e in program.equations if name in e.reads]
    if eq.body.has(Reduction) or len(readers) != 1:
        return program
    (reader,) = readers
    places = [a for a in accesses(reader.body) if a.name == name]
    if len(places) != 1 or not set(places[0].where) <= set(reader.indices):
        return program
    body = rename(eq.body, dict(zip(eq.indices, places[0].where, strict=True)))
    return _with(program, {name: (), reader.name: (
        replace(reader, body=reader.body.xreplace({places[0]: body})),)})


# -- turned weights --------------------------------------------------------------------------------
def _turned(program: Program) -> Program:
    changed: dict[str, Sequence[Equation]] = {}
    made: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    for group, eq in _recurrent(program):
        index = eq.indices[group.axis[eq.name]]
        if index.size.is_Integer and index.size < MANY:
            continue
        body = alpha_rename(guarded(eq.body), {i.name for i in eq.indices})
        copies: list[Equation] = []
        swaps: dict[Expr, Expr] = {}
        for term in Add.make_args(body):
            found = _by_columns(program, eq, term, index)
            if found is None:
                continue
            weight, order = found
            key, places = (weight.name, order), [weight.where[d] for d in order]
            if key not in made:
                taken = {*program.tensors, *(t.name for t in made.values())}
                made[key] = Tensor(packed_name("turned", eq.name, taken),
                                   tuple(i for i in places if isinstance(i, Index)),
                                   origin=("packed", eq.name))
                copies.append(Equation(made[key], made[key].indices, weight, eq.why))
            swaps[weight] = made[key].at(*places)
        if swaps:
            changed[eq.name] = (*copies, replace(eq, body=body.xreplace(swaps)))
    return _with(program, changed) if changed else program


def _by_columns(program: Program, eq: Equation, term: Expr, index: Index
                ) -> tuple[Access, tuple[int, ...]] | None:
    """A weight that a term's product reads by columns in each step, and the order of its dims in
    which it would read rows."""
    guard, inner = (conjuncts(term.condition), term.yes) if isinstance(term, Select) and \
        term.no == 0 else ((), term)
    whole = factor_and_sum(inner)
    if whole is None or whole[1].body.has(Reduction):
        return None
    shapes = {n: t.shape for n, t in program.tensors.items()}
    found = contraction(eq.target, *whole, shapes, None, (index,), guard)
    if found is None:
        return None
    weight, places = found.right, (*found.k, *found.n)
    if set(places) != set(weight.where) or len(places) != len(weight.where):
        return None
    at = [weight.where.index(i) for i in places]
    if weight.name in program.defined or strides(shapes[weight.name])[at[-1]] == 1:
        return None
    return weight, tuple(at)


# -- in the place of what was computed beforehand ------------------------------------------------
def _onto(program: Program, wanted: Collection[str]) -> Program:
    read = Counter(n for eq in program.equations for n in set(eq.reads))
    recurrent = {eq.name for _, eq in _recurrent(program)}
    changed: dict[str, Sequence[Equation]] = {}
    for _, eq in _recurrent(program):
        terms = Add.make_args(eq.body)
        held = [t.name for t in terms if isinstance(t, Access) and t.where == eq.indices
                and t.name in program.defined and t.name not in {*recurrent, *wanted}
                and program.tensors[t.name].shape == eq.tensor.shape and read[t.name] == 1
                and sum(a.name == t.name for a in accesses(eq.body)) == 1]
        if held and len(terms) > 1 and eq.tensor.origin is None:
            tensor = replace(eq.tensor, origin=("onto", held[0]))
            changed[eq.name] = (replace(eq, tensor=tensor),)
    return _with(program, changed) if changed else program
