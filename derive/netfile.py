"""Networks as text, `.net`: kept, sent and compared without Python, and without running anything.

    network "softmax regression"
    index b:B i:64 k:10
    input x[b, i]
    input t[b] int
    parameter W[i, k]
    z[b, k] = sum[i](x[b, i]*W[i, k])
    loss L = mean[b](logsumexp[k](z[b, k]) - z[b, t[b]])

One statement a line (parentheses may go over lines), ``#`` begins a comment. Sizes stand with an
index where it is introduced, ``j:32``, or once in a line ``index``. Words: network, index; input,
parameter, state, constant, random, with ``int``, ``distribution``, ``initial ones``; ``recurrent
h[t:T, j:4] first h0`` for a tensor that is read before its equation stands; ``name[…] = …``;
``loss L = …`` or ``loss L`` with ``of W, c`` for a loss that changes these only; ``update m = …``.

`read_network` and `parse_network` make a `Network` through the same calls as Python does.
`write_network` is their inverse: what it wrote reads back with the same equations and hash.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, cast

from sympy import Expr

from derive.errors import DeclarationError, nearest
from derive.initialisation import PLAIN, SCHEMES, WITH_NUMBER
from derive.naming import as_size
from derive.netparse import KEYWORDS, NetFileError, Reader, Source, Token
from derive.netprint import expression, index_list
from derive.network import Handle, Network
from derive.nodes import Index
from derive.program import Program, Role, Tensor, as_program

MAX_LENGTH = 2_000_000  # characters
_ROLES: tuple[Role, ...] = ("input", "parameter", "state", "constant", "random")
WORDS = ("network", "index", "recurrent", "loss", "update", *_ROLES)


def read_network(path: str | Path) -> Network:
    """The network of a `.net` file.

    Raises:
        NetFileError: what does not fit, with line and caret.
    """
    return parse_network(Path(path).read_text(encoding="utf-8"), str(path))


def parse_network(text: str, name: str = "text") -> Network:
    """The network of a `.net` text; ``name`` is what messages call it."""
    return Statements(Source(text, name)).run()


class Statements:
    """Reads statements one by one into a network; `run` gives it."""

    def __init__(self, source: Source) -> None:
        if len(source.text) > MAX_LENGTH:
            source.fail(0, "the text is too long", f"at most {MAX_LENGTH} characters")
        self.net = Network(Path(source.name).stem)
        self.known: dict[str, Index] = {}
        self.handles: dict[str, Handle] = {}
        self.sizes: dict[str, Expr] = {}
        self.reader = Reader(source, self)

    # -- what expressions may refer to ----------------------------------------------------------
    def tensors(self) -> list[str]:
        return list(self.handles)

    def access(self, name: str, where: list[Expr]) -> Expr:
        handle = self.handles[name]
        if len(where) == handle.tensor.rank and self.reader.guarded():
            return handle.tensor.at(*where)  # what does not fit is refused when it is defined
        return handle[tuple(where)] if where or handle.tensor.rank else handle.tensor.access

    def size(self, name: str, new: bool = False) -> Expr | None:
        if new and name not in self.handles:
            self.sizes[name] = as_size(name)
        return self.sizes.get(name)

    def index(self, name: str) -> Index | None:
        return self.known.get(name)

    # -- statements -----------------------------------------------------------------------------
    def run(self) -> Network:
        reader = self.reader
        while reader.now.kind != "end":
            if reader.now.kind == "newline":
                reader.place += 1
                continue
            token = reader.need_kind("name", "a statement: " + ", ".join(WORDS))
            try:
                self._statement(token)
            except RecursionError:
                reader.fail("the expression is nested too deeply")
            except NetFileError:
                raise
            except DeclarationError as error:
                expected = None if error.expected is None else str(error.expected)
                reader.fail(error.what, expected, error.mend, at=token.at)
            reader.scope = {}
            if reader.now.kind not in ("newline", "end"):
                reader.fail(f"unexpected {reader.now.text!r}", "the end of the line")
        return self.net

    def _statement(self, token: Token) -> None:
        word, following = token.text, self.reader.now
        if word in WORDS and following.kind in ("name", "text"):
            if word in _ROLES:
                self._declare(cast(Role, word))
            else:
                getattr(self, f"_{word}")()
        else:
            self._equation(token)

    def _network(self) -> None:
        self.net.name = self.reader.need_kind("text", 'a name such as "digits"').text[1:-1]

    def _index(self) -> None:
        while self.reader.now.kind == "name":
            name = self.reader.need_kind("name", "an index").text
            self.reader.need(":", f"the index {name!r}")
            self.known[name] = Index(name, self.reader.size())

    def _target(self, what: str) -> tuple[str, tuple[Index, ...]]:
        token = self.reader.need_kind("name", f"the name of {what}")
        if token.text in KEYWORDS:
            self.reader.fail(f"{token.text!r} is a word of this format", "another name",
                             at=token.at)
        bracket = self.reader.now.text == "["
        return token.text, self.reader.indices(token.text) if bracket else ()

    def _declare(self, role: Role) -> None:
        name, indices = self._target(f"the {role}")
        settings: dict[str, Any] = {}
        while option := self.reader.take("int", "distribution", "initial"):
            if option == "initial":
                word = self.reader.take(*PLAIN, *SCHEMES, *WITH_NUMBER)
                if word in (*PLAIN, *SCHEMES):
                    settings["initial"] = word
                    continue
                number = self.reader.sum()
                settings["initial"] = f"{word} {number.evalf(17)}" if word else number
            else:
                settings["dtype" if option == "int" else option] = int if option == "int" else True
        if role == "random":
            self.handles[name] = self.net.random(name)
            return
        try:
            self.handles[name] = getattr(self.net, role)(name, *indices, **settings)
        except TypeError as error:
            self.reader.fail(f"a {role} does not take {', '.join(settings)}", str(error))

    def _recurrent(self) -> None:
        name, indices = self._target("the tensor")
        first: Handle | Expr | None = None
        if self.reader.take("first"):
            token = self.reader.now
            if token.text in self.handles:
                self.reader.place += 1
                first = self.handles[token.text]
            else:
                first = self.reader.sum()
        self.handles[name] = self.net.declare(name, *indices, initial=first)

    def _equation(self, token: Token) -> None:
        self.reader.place -= 1
        name, indices = self._target("a tensor")
        if self.reader.take("=") is None:
            guess = nearest(name, WORDS)
            self.reader.fail(f"unexpected {self.reader.now.text!r}",
                             f"'=' after {name}, or a statement: {', '.join(WORDS)}",
                             f"did you mean {guess!r}?" if guess else None)
        self.reader.scope = {i.name: i for i in indices}
        body = self.reader.choice()
        target: Handle | str = name
        if name in self.handles and self.handles[name].tensor.role == "intermediate":
            target = self.handles[name]
        self.handles[name] = self.net.define(target, indices, body)

    def _loss(self) -> None:
        name, wrt = self.reader.need_kind("name", "the name of the loss").text, None
        body: Expr | Handle
        if self.reader.take("="):
            body = self.reader.choice()
        elif name in self.handles:
            body = self.handles[name]
        else:
            self.reader.fail(f"the loss {name!r} has no equation", f"loss {name} = …")
        if self.reader.take("of"):
            wrt = [self._handle()]
            while self.reader.take(","):
                wrt.append(self._handle())
        self.handles[name] = self.net.loss(body, name, wrt)

    def _update(self) -> None:
        state = self._handle()
        self.reader.need("=", "the state")
        self.reader.scope = {i.name: i for i in state.indices}
        new = self.net.update(state, self.reader.choice())
        self.handles[new.name] = new

    def _handle(self) -> Handle:
        token = self.reader.need_kind("name", "the name of a tensor")
        if token.text not in self.handles:
            self.reader._unknown(token)
        return self.handles[token.text]


# -- writing --------------------------------------------------------------------------------------
def write_network(program: Program | Network, path: str | Path | None = None) -> str:
    """The `.net` text of a program, also into a file where a path is given.

    Raises:
        DeclarationError: a derived program: write the network, and derive again after reading.
    """
    program = as_program(program)
    generated = [n for n in program.tensors if n.startswith("_")]
    if generated:
        raise DeclarationError(
            f"{generated[0]!r} is a generated tensor, and a .net text declares by hand",
            mend="write the network that was declared, and derive it again",
        )
    text = "\n".join(_Writer(program).lines()) + "\n"
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        sizes: dict[str, dict[Expr, None]] = defaultdict(dict)
        for index in self._introduced():
            sizes[index.name][index.size] = None
        self.common = {name: next(iter(s)) for name, s in sizes.items() if len(s) == 1}

    def _introduced(self) -> list[Index]:
        found = [i for t in self.program.tensors.values() for i in t.indices]
        for eq in self.program.equations:
            found += [*eq.indices, *sorted(eq.body.atoms(Index), key=str)]
        return found

    def lines(self) -> list[str]:
        p = self.program
        out = [f'network "{p.name.translate(str.maketrans("", "", chr(34) + chr(10)))}"']
        if self.common:
            out.append("index " + " ".join(f"{n}:{s}" for n, s in self.common.items()))
        ahead, place = self._read_ahead(), {name: n for n, name in enumerate(p.tensors)}
        waiting = [t for t in p.tensors.values() if t.name not in p.defined or t.name in ahead]
        updated = {new: state for state, new in p.updates.items()}
        for eq in p.equations:
            own = [] if eq.name in ahead else [place[eq.name]]
            needed = [place[r] for r in eq.reads if r not in p.defined or r in ahead]
            last = max([*own, *needed], default=-1)
            out += [self.declaration(t) for t in waiting if place[t.name] <= last]
            waiting = [t for t in waiting if place[t.name] > last]
            if eq.name in updated and eq.name == f"{updated[eq.name]}_next":
                out.append(f"update {updated[eq.name]} = {expression(eq.body, self.common)}")
            else:
                target = eq.name + self.bracket(eq.indices)
                out.append(f"{target} = {expression(eq.body, self.common)}")
        out += [self.declaration(t) for t in waiting]
        for name in p.losses:
            subjects = p.subjects.get(name)
            out.append(f"loss {name}" + (f" of {', '.join(subjects)}" if subjects else ""))
        return out

    def _read_ahead(self) -> list[str]:
        """Targets that an equation before their own (or their own) reads."""
        seen, ahead = {t.name for t in self.program.given}, []
        for eq in self.program.equations:
            ahead += [n for n in eq.reads if n not in seen and n not in ahead]
            seen.add(eq.name)
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
