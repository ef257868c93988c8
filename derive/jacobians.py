"""Programs over programs: Jacobians, Hessians and products with them.

A Jacobian is the reverse sweep with an index more: every adjoint has the indices of the
differentiated tensor in front, and the seed is the identity instead of 1. Nothing else differs,
so all simplifications of a gradient are those of a Jacobian. A Hessian is the Jacobian of a
gradient; its product with a vector is the gradient of a scalar product and needs no Hessian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from string import ascii_lowercase

from derive.differentiate import Reverse, derive, the_loss
from derive.errors import DerivationError, unknown_name
from derive.lift import name_reductions
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


def hessian_vector(program: Program, wrt: str, of: str | None = None, vector: str = "v") -> Program:
    """The program with the product of the Hessian of a scalar and a vector, without the Hessian:
    ``gradients[wrt]`` names it, and ``vector`` is an input in the shape of ``wrt``. The loss of
    the program is the scalar product of gradient and vector, whose gradient that product is."""
    program = as_program(program)
    derived = derive(program, [wrt], of or the_loss(program))
    gradient = derived.tensors[derived.gradients[wrt]]
    v = Tensor(vector, gradient.indices, role="input")
    if vector in derived.tensors:
        raise DerivationError(f"the name {vector!r} is taken", mend="hessian_vector(…, vector=…)")
    along = Tensor(f"_along_{vector}", ())
    body = SumOver(gradient.access * v.access, *gradient.indices)
    larger = replace(derived, tensors={**derived.tensors, vector: v})
    product = larger.with_equations([Equation(along, (), body, "scalar product")],
                                    losses=(along.name,), subjects={})
    return derive(product, [wrt], along.name)


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
