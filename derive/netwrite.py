"""Writing a network as `.net` text; what the words mean stands in `derive.netfile`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from sympy import Expr

from derive.custom import Given, X, Y, given_functions
from derive.errors import DeclarationError
from derive.netfile import parse_network
from derive.netprint import expression, index_list
from derive.network import Network
from derive.nodes import Index
from derive.program import Equation, Inner, Program, Tensor, as_program


def write_network(program: Program | Network, path: str | Path | None = None) -> str:
    """The `.net` text of a program, also into a file where a path is given.

    Raises:
        DeclarationError: a derived program: write the network, and derive again after reading.
    """
    program = as_program(program)
    inner = {name for one in program.declared if isinstance(one, Inner) for name in (one.name,)}
    generated = [n for n in program.tensors if n.startswith("_")]
    if program.gradients or (generated and not inner):
        name = next(iter([*program.gradients.values(), *generated]))
        raise DeclarationError(
            f"{name!r} is a generated tensor, and a .net text declares by hand",
            mend="write the network that was declared, and derive it again",
        )
    text = "\n".join(_Writer(program).lines()) + "\n"
    if inner and parse_network(text).program().hash != program.hash:
        raise DeclarationError(
            f"the equations of {program.name!r} are others than were declared, and what gradients"
            " inside it were taken of is no longer known",
            mend="write the network before it is changed",
        )
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def function_line(name: str, given: Given) -> str:
    """The statement that gives a function of a user's."""
    parts = [f"function {name}({X.name}) = {expression(given.definition, {})}"]
    if given.derivative is not None:
        parts.append(f"derivative({Y.name}) = {expression(given.derivative, {})}")
    if given.stable is not None:
        parts.append(f"stable = {expression(given.stable, {})}")
    if given.kinks:
        parts.append("kinks " + ", ".join(expression(k, {}) for k in given.kinks))
    if given.symbol is not None:
        parts.append(f"symbol {json.dumps(given.symbol, ensure_ascii=False)}")
    return " ".join(parts)


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.statements = program.declared or program.equations
        self.equations = [eq for eq in self.statements if isinstance(eq, Equation)]
        self.tensors = [t for n, t in program.tensors.items() if not n.startswith("_")]
        sizes: dict[str, dict[Expr, None]] = defaultdict(dict)
        for index in self._introduced():
            sizes[index.name][index.size] = None
        self.common = {name: next(iter(s)) for name, s in sizes.items() if len(s) == 1}

    def _introduced(self) -> list[Index]:
        found = [i for t in self.tensors for i in t.indices]
        for eq in self.equations:
            found += [*eq.indices, *sorted(eq.body.atoms(Index), key=str)]
        return found

    def lines(self) -> list[str]:
        p = self.program
        out = [f"network {json.dumps(p.name, ensure_ascii=False)}"]
        out += [function_line(name, given)
                for name, given in given_functions(eq.body for eq in self.equations).items()]
        if self.common:
            out.append("index " + " ".join(f"{n}:{s}" for n, s in self.common.items()))
        ahead, place = self._read_ahead(), {name: n for n, name in enumerate(p.tensors)}
        waiting = [t for t in self.tensors if t.name not in p.defined or t.name in ahead]
        for one in self.statements:
            own = [] if one.name in ahead else [place[one.name]]
            reads = one.reads if isinstance(one, Equation) else ()
            needed = [place[r] for r in reads if r not in p.defined or r in ahead]
            last = max([*own, *needed], default=-1)
            out += [self.declaration(t) for t in waiting if place[t.name] <= last]
            waiting = [t for t in waiting if place[t.name] > last]
            out.append(self.statement(one))
        out += [self.declaration(t) for t in waiting]
        for name in p.losses:
            subjects = p.subjects.get(name)
            out.append(f"loss {name}" + (f" of {', '.join(subjects)}" if subjects else ""))
        return out

    def statement(self, one: Equation | Inner) -> str:
        if isinstance(one, Inner):
            return f"gradient {one.name} = {one.of} by {one.wrt}"
        updated = {new: state for state, new in self.program.updates.items()}
        state = updated.get(one.name)
        target = (f"update {state}" if one.name == f"{state}_next"
                  else one.name + self.bracket(one.indices))
        return f"{target} = {expression(one.body, self.common)}"

    def _read_ahead(self) -> list[str]:
        """Targets that an equation before their own (or their own) reads."""
        seen, ahead = {t.name for t in self.program.given}, []
        for one in self.statements:
            reads = one.reads if isinstance(one, Equation) else ()
            ahead += [n for n in reads if n not in seen and n not in ahead]
            seen.add(one.name)
        return ahead

    def bracket(self, indices: tuple[Index, ...]) -> str:
        return f"[{index_list(indices, self.common)}]" if indices else ""

    def target(self, tensor: Tensor) -> str:
        return tensor.name + self.bracket(tensor.indices)

    def declaration(self, t: Tensor) -> str:
        if t.name in self.program.defined:
            return f"recurrent {self.target(t)}"
        words = [t.role, self.target(t)]
        words += ["int"] if t.dtype == "int" and t.role != "random" else []
        words += ["distribution"] if t.distribution else []
        usual = "zeros" if t.role == "state" else "auto"
        if t.initial != usual:
            value = t.initial if isinstance(t.initial, str) else expression(t.initial, {})
            words += ["initial", value]
        return " ".join(words)
