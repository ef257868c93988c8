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
A gradient that the network takes of itself is named and used like any tensor; a function of the
user's own stands with what is known of it:

    gradient slope = total by x
    function soft(x) = x/(1 + abs(x)) derivative(y) = (1 - abs(y))**2 kinks 0 symbol "s"
    y[b, i] = soft(slope[b, i])

`read_network` and `parse_network` make a `Network` through the same calls as Python does.
`derive.netwrite.write_network` is their inverse: what it wrote reads back with the same equations
and hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from sympy import Expr

from derive.custom import Given, X, Y, given_function
from derive.errors import ChainruleError, nearest
from derive.initialisation import PLAIN, SCHEMES, WITH_NUMBER
from derive.naming import as_size
from derive.netparse import KEYWORDS, NetFileError, Reader, Source, Token
from derive.network import Handle, Network
from derive.nodes import Index
from derive.program import Role

MAX_LENGTH = 2_000_000  # characters
_ROLES: tuple[Role, ...] = ("input", "parameter", "state", "constant", "random")
WORDS = ("network", "index", "function", "recurrent", "gradient", "loss", "update", *_ROLES)


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
            except ChainruleError as error:
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
        self.net.name = self._text('a name such as "digits"')

    def _text(self, expected: str) -> str:
        token = self.reader.need_kind("text", expected)
        try:
            return str(json.loads(token.text))
        except json.JSONDecodeError:
            self.reader.fail("a backslash stands before what it cannot escape",
                             r'\" or \\ or \n', r"two for one: \\sigma", at=token.at)

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

    def _gradient(self) -> None:
        token = self.reader.need_kind("name", "the name of the gradient")
        if token.text in self.handles or token.text in KEYWORDS:
            self.reader.fail(f"the name {token.text!r} is used twice", "a new name", at=token.at)
        self.reader.need("=", "the name of the gradient")
        of = self._handle()
        self.reader.need("by", "the scalar")
        self.handles[token.text] = self.net.gradient(of, self._handle())

    def _function(self) -> None:
        """``function f(x) = …`` and what else is known of it."""
        reader = self.reader
        token = reader.need_kind("name", "the name of the function")
        if token.text in reader.functions or token.text in KEYWORDS:
            reader.fail(f"the function {token.text!r} exists already", "a new name", at=token.at)
        argument = self._argument(token.text)
        reader.scope = {argument: X}
        reader.need("=", "the argument")
        definition, kinks, settings = reader.choice(), [], {}
        while clause := reader.take("derivative", "stable", "kinks", "symbol"):
            if clause == "symbol":
                settings[clause] = self._text('LaTeX, such as "\\\\sigma"')
            elif clause == "kinks":
                kinks = [reader.sum()]
                while reader.take(","):
                    kinks.append(reader.sum())
            else:
                if clause == "derivative":
                    reader.scope = {argument: X, self._argument("derivative"): Y}
                reader.need("=", clause)
                settings[clause] = reader.choice()
                reader.scope = {argument: X}
        reader.functions[token.text] = given_function(
            token.text, Given(definition, kinks=tuple(kinks), **settings))

    def _argument(self, after: str) -> str:
        self.reader.need("(", after)
        name = self.reader.need_kind("name", "the name of the argument").text
        self.reader.need(")", "the argument")
        return name

    def _handle(self) -> Handle:
        token = self.reader.need_kind("name", "the name of a tensor")
        if token.text not in self.handles:
            self.reader._unknown(token)
        return self.handles[token.text]
