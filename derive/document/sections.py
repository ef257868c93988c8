"""The sections of a document other than the derivation itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import sympy
from sympy import Expr, S

from derive.boxes import Token
from derive.document.backward import layers_alike
from derive.document.forms import Maker, batch_size
from derive.document.remarks import gate_meanings, remarks
from derive.document.tree import (
    Block,
    Boxed,
    Code,
    Equation,
    Listing,
    Math,
    Paragraph,
    Ref,
    Section,
    Span,
    Spans,
    Table,
    listed,
)
from derive.functions import REGISTRY, Elementary
from derive.nodes import Access, Index, IntegerAccess, MaxOver, MinOver, Reduction, Select
from derive.notate import Builder
from derive.program import Tensor
from derive.randomness import uniform
from derive.rules import RULES

#: calls without a derivative of their own
_NO_FUNCTIONS = (Access, Reduction, Select, Index, uniform, sympy.floor, sympy.Mod)


def result_section(maker: Maker, after: dict[str, Equation]) -> Section:
    """The gradients, first of all; ``after`` holds them as the derivation ends with them."""
    program = maker.program
    shown = [
        replace(after[adjoint], reasons=())  # they are given where it is derived
        for adjoint in program.gradients.values() if adjoint in after
    ]
    first = min((e.number for e in after.values() if e.number), default=None)
    ref: Span = Ref(f"eq-{first}", f"({first})") if first else ""
    if program.jacobians:
        of = listed([(maker.symbol(n),) for n in dict.fromkeys(program.jacobians.values())])
        intro = maker.words("result.jacobian", of=of, first=ref)
    else:
        losses = program.losses[:1] or ("L",)
        intro = maker.words("result.intro", loss=maker.symbol(losses[0]), first=ref,
                            adjoints=maker.words(f"result.{maker.style.adjoint}"))
        if any(scalar not in losses for scalar in maker.plain.scalars.values()):
            intro = (*intro, " ", *maker.words("result.others"))
    return Section(maker.words("section.result"), "result", 1,
                   (Paragraph(intro), Boxed(tuple(shown))))


# -- notation and conventions ---------------------------------------------------------------------
def notation_section(maker: Maker) -> Section:
    words = maker.words
    rows = []
    gates = gate_meanings(maker)
    for tensor in maker.program.tensors.values():
        adjoint = (tensor.origin or ("",))[0] == "adjoint"
        if maker.hidden(tensor.name) or ((adjoint or tensor.role == "gradient")
                                         and not _needs_words(maker, tensor.name)):
            continue
        if tensor.name.startswith("_") and tensor.name not in maker.numbers:
            continue
        maker.fold = maker.fold_of(tensor.name)
        role = words(f"role.{tensor.role}")
        meaning = _meaning(maker, tensor)
        if tensor.name in gates:
            meaning = (*meaning, *words("between"), *gates[tensor.name])
        if maker.fold is not None:
            meaning = (*meaning, ", ", *maker.layer_note(tensor.name))
        rows.append((
            (maker.symbol(tensor.name),), meaning,
            (maker.shape(tensor.shape),) if tensor.rank else words("scalar"),
            role, _code_name(maker, tensor.name),
        ))
        maker.fold = None
    heads = ("symbol", "meaning", "shape", "role", "code")
    tensors = Table(tuple(words(f"notation.{h}") for h in heads), tuple(rows), "lllll")
    blocks: list[Block] = [tensors]
    if any(any(c.isdigit() for c in t.name) for t in maker.program.tensors.values()):
        blocks.append(Paragraph(words("notation.intro"), quiet=True))
    blocks += _index_table(maker)
    return Section(words("section.notation"), "notation", 1, tuple(blocks))


def _needs_words(maker: Maker, name: str) -> bool:
    """Whether the symbol of an adjoint does not say what it is: the derivative of another scalar
    than the loss, or the second of a name."""
    symbol, scalar = maker.plain.tensor(name), maker.plain.scalars.get(name)
    origin = maker.program.tensors[name].origin
    if symbol.loss is not None or scalar is None or origin is None:
        return False
    of = maker.plain.tensor(origin[1])
    return scalar not in maker.program.losses or symbol.subs not in (of.subs, (of,))


def _code_name(maker: Maker, name: str) -> Spans:
    """The name in the code; of layers alike the first and the last one."""
    if maker.fold is None:
        return (Code(name),)
    folding, fold = maker.folding, maker.fold
    ends = (folding.partner(name, 0), folding.partner(name, fold.count - 1))
    return (Code(ends[0] or name), " … ", Code(ends[1] or name))


def _meaning(maker: Maker, tensor: Tensor) -> Spans:
    words = maker.words
    if tensor.name in maker.program.losses:
        return words("meaning.loss")
    number = maker.number_of(tensor.name)
    ref: Span = Ref(f"eq-{number}", f"({number})") if number else ""
    if tensor.origin is not None:
        kind, other = tensor.origin
        if kind == "adjoint":
            return words("meaning.adjoint", of=maker.symbol(other), number=ref,
                         scalar=maker.symbol(maker.plain.scalars[tensor.name]))
        key = f"meaning.{kind}" if kind in ("argument", "softmax", "ties", "others") else \
            "meaning.intermediate"
        return words(key, number=maker.ref(other) if kind == "argument" else ref)
    if tensor.role == "intermediate":
        return words("meaning.intermediate", number=ref)
    if tensor.role == "input":
        kind = "labels" if tensor.dtype == "int" else "distribution" if tensor.distribution \
            else "input"
        return words(f"meaning.{kind}")
    if tensor.role == "parameter":
        readers = [eq.name for eq in maker.forward if tensor.name in eq.reads]
        return words("meaning.parameter", numbers=maker.refs(readers[:6]))
    return words(f"meaning.{tensor.role}")


def _index_table(maker: Maker) -> list[Block]:
    """Which letters run over which size, once for each size; a word where one has several."""
    by_size: dict[Expr, dict[str, None]] = {}
    for eq in maker.program.equations[:400]:
        for index in eq.indices:
            by_size.setdefault(index.size, {}).setdefault(index.name)
        for node in sympy.preorder_traversal(eq.body):
            if isinstance(node, Reduction):
                for index in node.bound:
                    by_size.setdefault(index.size, {}).setdefault(index.name)
    rows = []
    for size, names in by_size.items():
        upper = maker.node(Builder().index(size - 1)) if not size.is_Integer else maker.expr(
            size - 1)
        span: Spans = (Math(Token("0", "number"), "0"), ", …, ", upper)
        rows.append((listed([(maker.index(name),) for name in names]), span,
                     (maker.shape((size,)),)))
    words = maker.words
    blocks: list[Block] = [Table(
        (words("notation.index"), words("notation.range"), words("notation.size")),
        tuple(rows), "lll")]
    letters = [name for names in by_size.values() for name in names]
    if len(set(letters)) < len(letters):
        blocks.append(Paragraph(words("notation.reused"), quiet=True))
    return blocks


def conventions_section(maker: Maker) -> Section:
    words = maker.words
    program = maker.program
    blocks: list[Block] = [Paragraph(words(f"convention.layout.{maker.style.layout}"))]
    blocks.append(Paragraph(words("convention.vectors")))
    if any(t.rank > 2 for t in program.tensors.values()):
        blocks.append(Paragraph(words("convention.slices")))
    if batch_size(program) is not None:
        blocks.append(Paragraph(words(f"convention.samples.{maker.style.samples}")))
    bodies = [eq.body for eq in program.equations]
    blocks += _batch(maker)
    if any(b.has(Select) for b in bodies):
        blocks.append(Paragraph(words("convention.iverson")))
    if any(w.has(IntegerAccess) for b in bodies for a in b.atoms(Access) for w in a.where):
        blocks.append(Paragraph(words(f"convention.onehot.{maker.style.samples}")))
    for what in _kinks(maker, bodies):
        blocks.append(Paragraph(words("convention.kink", what=what)))
    if any(b.has(MaxOver, MinOver) for b in bodies):
        blocks.append(Paragraph(words("convention.ties")))
    if any(b.has(uniform) for b in bodies):
        blocks.append(Paragraph(words("convention.random")))
    return Section(words("section.conventions"), "conventions", 1, tuple(blocks))


def _batch(maker: Maker) -> list[Block]:
    """Which index counts the samples, and what the loss is divided by."""
    program, words = maker.program, maker.words
    blocks: list[Block] = []
    first = [t.indices[0] for t in program.inputs if t.rank and not t.shape[0].is_Integer]
    if first:
        blocks.append(Paragraph(words("convention.batch", index=maker.index(first[0].name))))
    for name in program.losses[:1]:
        counts = {_divisor(term) for term in sympy.Add.make_args(program.defined[name].body)}
        count = counts.pop()
        if not counts and count.free_symbols:
            blocks.append(Paragraph(words("convention.reduction", count=maker.expr(count))))
    return blocks


def _divisor(term: Expr) -> Expr:
    """What a term is divided by, apart from tensors."""
    factors = [f for f in sympy.Mul.make_args(term) if not f.has(Access, Reduction, Select)]
    return sympy.fraction(sympy.Mul(*factors))[1]


def _kinks(maker: Maker, bodies: Iterable[Expr]) -> list[Spans]:
    used = {type(f) for b in bodies for f in b.atoms(Elementary)}
    return [
        (Code(cls.subgradient),) for cls in REGISTRY.values()
        if cls in used and cls.subgradient and cls.__name__ not in ("step", "sign")
    ]


# -- forward ----------------------------------------------------------------------------------
def forward_section(maker: Maker, only: set[str] | None = None) -> Section:
    """The forward equations, or those named in ``only``; they get their numbers here."""
    blocks: list[Block] = [Paragraph(maker.words("forward.intro"))]
    told: set[object] = set()
    for eq in maker.forward:
        if maker.hidden(eq.name) or (only is not None and eq.name not in only):
            continue
        maker.fold = maker.fold_of(eq.name)
        note: Spans = ()
        if maker.fold is not None:
            if maker.fold not in told:
                told.add(maker.fold)
                blocks.append(layers_alike(maker))
            note = maker.layer_note(eq.name)
        if eq.why == "name" and maker.detail == "full":
            note = (*note, *maker.words("forward.named"))
        blocks.append(maker.shown(eq, maker.new_number(eq.name), note=note, explain=False))
        blocks += remarks(maker, eq)
        maker.fold = None
    return Section(maker.words("section.forward"), "forward", 1, tuple(blocks))


# -- kernel, optimizer, rules ---------------------------------------------------------------------
def kernel_section(maker: Maker, kernel: str) -> Section:
    return Section(maker.words("section.kernel"), "kernel", 1,
                   (Paragraph(maker.words("kernel.intro")), Listing(kernel)))


def optimizer_section(maker: Maker, optimizer: object) -> Section:
    """``optimizer`` is a `derive.optimizers.Optimizer`."""
    blocks: list[Block] = [Paragraph(maker.words(
        "optimizer.intro", name=optimizer.name))]  # type: ignore[attr-defined]
    for program in optimizer.programs:  # type: ignore[attr-defined]
        own = Maker(program, maker.words, maker.detail, maker.style)
        for eq in program.equations:
            shown = own.shown(eq, explain=False)
            blocks.append(Equation(None, shown.index))
        blocks.append(Paragraph(_settings(own, optimizer)))
    return Section(maker.words("section.optimizer"), "optimizer", 1, tuple(blocks))


def _settings(own: Maker, optimizer: object) -> Spans:
    """The settings of an optimizer with their values, and what it keeps from step to step."""
    words, read = own.words, {n for eq in own.program.equations for n in eq.reads}
    values = optimizer.settings  # type: ignore[attr-defined]
    settings = [(own.symbol(n), f" = {value:g}") for n, value in values.items()
                if n in read and isinstance(value, int | float)]
    said = words("optimizer.prime")
    if settings:
        said = (*words("optimizer.with", settings=listed(settings)), " ", *said)
    states = [(own.symbol(t.name),) for t in own.program.role("state")
              if t.name in read and t.initial == "zeros"]
    if states:
        said = (*said, " ", *words("optimizer.states", states=listed(states)))
    if "t" in read:
        said = (*said, " ", *words("optimizer.count", count=own.symbol("t")))
    return said


def rules_section(maker: Maker) -> Section:
    words = maker.words
    blocks: list[Block] = [Paragraph(words("rules.intro"))]
    for key in RULES:
        if key not in maker.rules:
            continue
        title = words.text(f"rule.{key}.title")
        says = Paragraph(words(f"rule.{key}.says"))
        proof = (*words("rules.proof"), " ", *words(f"rule.{key}.proof"))
        if key == "matrix" and maker.style.layout == "numerator":
            proof = (*proof, " ", *words("rule.matrix.numerator"))
        blocks.append(Section((title[:1].upper() + title[1:],), f"rule-{key}", 2,
                              (says, Paragraph(proof, quiet=True))))
    table = _function_table(maker)
    if table is not None:
        blocks.append(Section(words("rules.functions"), "functions", 2, (table,)))
    return Section(words("section.rules"), "rules", 1, tuple(blocks))


def _function_table(maker: Maker) -> Table | None:
    """Each elementary function of the program with its definition and derivative."""
    x = sympy.Symbol("x", real=True)
    used: dict[type, tuple[Expr, ...]] = {}
    for eq in maker.forward:
        for f in eq.body.atoms(sympy.Function):
            if not isinstance(f, _NO_FUNCTIONS):
                used.setdefault(type(f), f.args[1:])
    rows: list[tuple[Spans, ...]] = []
    for cls, settings in used.items():
        if not issubclass(cls, sympy.Function) or cls.__name__ in ("Piecewise",):
            continue
        f = cls(x, *settings)
        define = cls.define(x, *settings) if issubclass(cls, Elementary) else None
        left = maker.expr(f)
        first: Spans = (left,)
        proof: Spans = ()
        if define is not None:
            first = (left, " ", Math(Token("=", "op"), "="), " ", maker.expr(define))
            if not define.has(Select):
                proof = (maker.expr(sympy.diff(define, x)),)
        rows.append((first, (maker.expr(_own_output(f, x)),), proof))
    if not rows:
        return None
    words = maker.words
    heads = tuple(words(f"rules.{h}") for h in ("function", "derivative", "definition"))
    if not any(proof for *_, proof in rows):
        heads, rows = heads[:2], [row[:2] for row in rows]
    return Table(heads, tuple(rows), "l" * len(heads))


def _own_output(f: Expr, x: sympy.Symbol) -> Expr:
    return sympy.diff(f, x).xreplace({f: sympy.Symbol("y", real=True)}) if f != x else S.One
