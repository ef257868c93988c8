"""What a trained network is asked for: the equations of its predictions, without loss or labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from derive.errors import DeclarationError, unknown_name
from derive.program import Program


def label_inputs(program: Program) -> tuple[str, ...]:
    """Inputs that only the losses read, directly or through what was lifted out of them."""
    def of_loss(name: str) -> bool:
        tensor = program.tensors[name]
        if name in program.losses:
            return True
        return tensor.origin is not None and tensor.origin[1] in program.losses

    forward = program.forward
    labels = []
    for tensor in forward.inputs:
        readers = [eq for eq in forward.equations if tensor.name in eq.reads]
        if readers and all(of_loss(eq.name) for eq in readers):
            labels.append(tensor.name)
    return tuple(labels)


def inference(program: Program, outputs: str | Iterable[str] | None = None
              ) -> tuple[Program, tuple[str, ...]]:
    """The equations that some outputs need, and the names of these.

    Args:
        outputs: by default what the losses are made of and no label enters: scores, predictions.

    Raises:
        DeclarationError: an unknown output; or a network that is not one for inference: random
            numbers (dropout), the moments of a batch.
    """
    forward = replace(program, gradients={}, jacobians={}, steps=(), subjects={})
    if outputs is None:
        names = _predictions(forward)
    else:
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    for name in names:
        if name not in forward.defined:
            raise unknown_name("output", name, forward.defined)
    needed = forward.only(*names)
    random = needed.role("random")
    if random:
        raise DeclarationError(
            f"the outputs depend on random numbers ({random[0].name})",
            expected="the network for inference",
            mend="build it with training=False: dropout is then the identity",
        )
    moving = [s for s in forward.updates if s not in needed.tensors
              and set(forward.only(forward.updates[s]).defined) & set(needed.defined)]
    if moving:
        raise DeclarationError(
            f"the outputs use the moments of the batch, not the running ones ({moving[0]})",
            expected="the network for inference",
            mend="build it with training=False: batch norm then uses its running moments",
        )
    return replace(needed, losses=(), updates={}), names


def _predictions(program: Program) -> tuple[str, ...]:
    labels = set(label_inputs(program))
    found: dict[str, None] = {}
    stack, seen = list(program.losses), set()
    while stack:
        name = stack.pop()
        if name in seen or name not in program.defined:
            continue
        seen.add(name)
        clean = not labels & set(program.only(name).tensors)
        if clean and name not in program.losses and not name.startswith("_"):
            found[name] = None
        else:
            stack += program.defined[name].reads
    tails = [n for n in found if not any(n in program.only(m).tensors for m in found if m != n)]
    if not tails:
        raise DeclarationError("which tensors are the outputs?", expected='outputs=["z2"]')
    return tuple(n for n in program.defined if n in tails)
