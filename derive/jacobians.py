"""Programs over programs: Jacobians, Hessians and products with them.

A Jacobian is the reverse sweep with an index more: every adjoint has the indices of the
differentiated tensor in front, and the seed is the identity instead of 1. Nothing else differs,
so all simplifications of a gradient are those of a Jacobian. A Hessian is the Jacobian of a
gradient; its product with a vector is the gradient of a scalar product and needs no Hessian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase

from sympy import Add, Expr

from derive.custom import stopped
from derive.differentiate import Reverse, derive, the_loss
from derive.errors import DeclarationError, DerivationError, unknown_name
from derive.lift import Names, name_reductions
from derive.nodes import Index, SumOver
from derive.program import Equation, Program, Tensor, as_program


def jacobian(program: Program, of: str, wrt: str) -> Program:
    """The program with the Jacobian of a tensor with respect to another.

    Returns:
        A program whose ``gradients[wrt]`` names the tensor ``J[m…, i…]`` = ∂of[m…]/∂wrt[i…].

    Raises:
        DerivationError: ``of`` does not depend on ``wrt``.
    """
    program = as_program(program)
    if of not in program.tensors:
        raise unknown_name("tensor", of, program.tensors)
    rows = _rows(program, program.tensors[of])
    return Reverse(name_reductions(program), (wrt,), of, rows).run()


def _rows(program: Program, tensor: Tensor) -> tuple[Index, ...]:
    """An index for each dim of ``tensor`` whose letter no equation uses."""
    used = {i.name.rstrip("0123456789") for eq in program.equations
            for i in (*eq.indices, *eq.body.atoms(Index))}
    used |= {i.name for t in program.tensors.values() for i in t.indices}
    after = ascii_lowercase[8:] + ascii_lowercase[:8]  # i, j, k, … first
    letters = [c for c in after if c not in used]
    letters += [2 * c for c in after if 2 * c not in used]
    if len(letters) < tensor.rank:
        raise DerivationError(f"no letters are left for the rows of the Jacobian of {tensor.name}")
    return tuple(i.renamed(c) for i, c in zip(tensor.indices, letters, strict=False))


def hessian(program: Program, wrt: str, of: str | None = None) -> Program:
    """The program with the second derivatives of a scalar: ``gradients[wrt]`` names the tensor
    ``H[i…, j…]`` over the indices of ``wrt``, twice."""
    derived = derive(program, [wrt], of)
    return jacobian(derived, derived.gradients[wrt], wrt)


def hessian_vector(program: Program, wrt: str | Sequence[str], of: str | None = None,
                   vector: str = "v") -> Program:
    """The program with the product of the Hessian of a scalar and a vector, without the Hessian.

    Args:
        wrt: a tensor, or several: then the Hessian is that of all of them together.
        vector: the name of the vector, an input in the shape of ``wrt``; of several tensors each
            has its own, ``v_W1`` and so on.

    Returns:
        A program whose ``gradients`` name the product, in the shape of each tensor; its loss is
        the scalar product of gradient and vector, whose gradient that product is.

    Raises:
        DerivationError: the gradient does not depend on ``wrt``, as that of a linear loss.
    """
    program = as_program(program)
    of = of or the_loss(program)
    derived = derive(program, _names(wrt), of)
    along = _along(derived, _vectors(derived, wrt, vector), derived.gradients)
    scalar = along.equations[-1].name
    read = {name for eq in along.only(scalar).equations for name in eq.reads}
    if linear := [name for name in _names(wrt) if name not in read]:
        raise DerivationError(
            f"the gradient of {of!r} does not depend on {', '.join(map(repr, linear))}",
            expected="tensors in which the scalar is not linear: others have no second derivative",
            mend="leave them out of `wrt`", where=program.tensors[linear[0]].where)
    return derive(replace(along, losses=(scalar,), subjects={}), _names(wrt), scalar)


def gauss_newton_vector(program: Program, output: str | None = None,
                        wrt: Sequence[str] | None = None, of: str | None = None,
                        vector: str = "v") -> Program:
    """The program with the product of the Gauss-Newton matrix of a loss and a vector, without the
    matrix (Schraudolph 2002): the Hessian that the loss would have if the network's output were
    linear in the parameters, Jᵀ (∂²L/∂z²) J v, and the second derivative of what the loss has of
    the parameters beside z (a weight decay).

    J v is the derivative of ⟨Jᵀu, v⟩ with respect to u, so three reverse sweeps make it all.

    Args:
        output: z, what the loss is a function of; by default the network's only prediction.
        wrt: by default all that the loss is to change.
        vector: names of the inputs, ``v_W1`` for the parameter W1.

    Raises:
        DerivationError: the loss is linear in the output, so that there is no such matrix.
        DeclarationError: which tensor is the output must be said.
    """
    program = replace(as_program(program), gradients={}, updates={}, steps=())
    of = of or the_loss(program)
    program, output = program.only(of), output or _prediction(program)
    if output not in program.defined:
        raise unknown_name("output", output, program.defined)
    wrt = tuple(wrt or program.subjects.get(of) or (t.name for t in program.parameters))
    z = program.tensors[output]
    inside = [n for n in wrt if n in program.only(output).tensors]
    u = Tensor(Names(set(program.tensors)).new(f"_u_{output}"), z.indices, role="input")
    there = replace(program, tensors={**program.tensors, u.name: u})
    back = derive(_dotted(there, [(z.access, u)]), inside, f"_along_{u.name}")
    forth = _along(back, _vectors(back, list(wrt), vector), {n: back.gradients[n] for n in inside})
    moved = derive(forth, [u.name], forth.equations[-1].name)
    tangent = moved.gradients[u.name]
    bent, curved = _bent(moved, of, z, tangent, wrt, vector)
    whole = _dotted(bent, [(stopped(bent.tensors[c].access), bent.tensors[n])
                           for n, c in curved.items()])
    last = derive(whole, wrt, whole.equations[-1].name)
    products = {n: last.gradients[n] for n in wrt}
    return replace(last, gradients=products, losses=(of,)).only(of, *products.values(), *products)


def _bent(program: Program, of: str, z: Tensor, tangent: str, wrt: Sequence[str], vector: str
          ) -> tuple[Program, dict[str, str]]:
    """The second derivatives of the loss as a function of z and the parameters, times the tangent
    of z and the vectors: their names, in the program with the equation of z as it was."""
    own = program.defined[z.name]
    cut = replace(program, equations=tuple(e for e in program.equations if e is not own),
                  tensors={**program.tensors, z.name: replace(z, role="input")}, gradients={})
    names = [n for n in (z.name, *wrt) if n in cut.only(of).tensors]
    first = derive(cut, names, of)
    ways = {n: first.tensors[tangent if n == z.name else f"{vector}_{n}"] for n in names}
    along = _dotted(first, [(stopped(way.access), first.tensors[first.gradients[n]])
                            for n, way in ways.items()])
    scalar = along.equations[-1].name
    bent = [n for n in names if n in along.only(scalar).tensors]
    if z.name not in bent:
        raise DerivationError(f"the loss is linear in {z.name!r}", expected="a loss with a second "
                              "derivative, such as a squared error or a cross-entropy")
    second = derive(along, bent, scalar)
    whole = replace(second, tensors={**program.tensors, **second.tensors, z.name: z},
                    equations=(*second.equations, own), gradients={})
    return whole, dict(second.gradients)


def _prediction(program: Program) -> str:
    from derive.inference import inference

    names = inference(program)[1]
    if len(names) != 1:
        raise DeclarationError("which tensor is the network's output?", got=", ".join(names),
                               mend=f"gauss_newton_vector(net, {names[0]!r})")
    return names[0]


def _names(wrt: str | Sequence[str]) -> list[str]:
    return [wrt] if isinstance(wrt, str) else list(wrt)


def _vectors(program: Program, wrt: str | Sequence[str], vector: str) -> dict[str, Tensor]:
    """An input in the shape of each tensor."""
    called = {n: vector if isinstance(wrt, str) else f"{vector}_{n}" for n in _names(wrt)}
    for name in called.values():
        if name in program.tensors:
            raise DerivationError(f"the name {name!r} is taken", mend="name it: vector=…")
    return {n: Tensor(v, program.tensors[n].indices, role="input") for n, v in called.items()}


def _along(program: Program, vectors: Mapping[str, Tensor], gradients: Mapping[str, str]
           ) -> Program:
    """The program with the derivative along the vectors, a scalar, as its last equation."""
    tensors = {**program.tensors, **{v.name: v for v in vectors.values()}}
    return _dotted(replace(program, tensors=tensors), [
        (program.tensors[g].access, vectors[n]) for n, g in gradients.items()])


def _dotted(program: Program, pairs: Sequence[tuple[Expr, Tensor]]) -> Program:
    """The program with a sum of scalar products, of factors at a tensor's indices and the
    tensor, as its last equation."""
    name = f"_along_{pairs[-1][1].name}"
    name = Names(set(program.tensors)).new(name)
    body = Add(*(SumOver(factor * t.access, *t.indices) if t.indices else factor * t.access
                 for factor, t in pairs))
    return program.with_equations([Equation(Tensor(name, ()), (), body, "scalar product")])


WEIGHTS = "_weights"


def contracted(program: Program) -> Iterator[Program]:
    """A program for the Jacobians of each tensor, to be checked like any gradient: its loss is the
    sum of the tensor's elements under weights (an input called `WEIGHTS`), and its gradients are
    the Jacobians under the same weights."""
    for of in dict.fromkeys(program.jacobians.values()):
        tensor = program.tensors[of]
        weights = Tensor(WEIGHTS, tensor.indices, role="input")
        total = Tensor("_weighted", ())
        new = [Equation(total, (), SumOver(weights.access * tensor.access, *tensor.indices),
                        "scalar product")]
        gradients = {}
        for name in (n for n, which in program.jacobians.items() if which == of):
            whole = program.tensors[program.gradients[name]]
            rows, rest = whole.indices[: tensor.rank], whole.indices[tensor.rank :]
            one = Tensor(f"_weighted_{name}", rest, role="gradient")
            new.append(Equation(one, rest, SumOver(weights.at(*rows) * whole.access, *rows),
                                "scalar product"))
            gradients[name] = one.name
        larger = replace(program, tensors={**program.tensors, WEIGHTS: weights}, jacobians={})
        yield larger.with_equations(new, gradients=gradients, losses=(total.name,))
