"""The backward section: each adjoint in the order in which it was found, from the record."""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Mul

from derive.document.combined import combined
from derive.document.forms import Maker, batch_size
from derive.document.record import Entry, Helper, Use
from derive.document.tree import Block, Display, Math, Paragraph, Ref, Section, Span, Spans, listed
from derive.local import index_plan
from derive.nodes import Access, Index, SumOver, rename
from derive.notate import Builder
from derive.program import Equation
from derive.text import expression_text

_LONGEST = 300  # letters of a closed form that is shown


def backward_section(maker: Maker, only: set[str] | None = None) -> Section:
    """The derivation of every adjoint, or of those named in ``only``."""
    blocks: list[Block] = []
    if maker.detail != "summary":
        blocks.append(Paragraph(maker.words("backward.intro")))
    said: set[str] = set()
    told_layers: set[object] = set()
    for entry in maker.story:
        name = entry.equation.name if isinstance(entry, Helper) else entry.name
        if (only is not None and name not in only) or _hidden(maker, entry):
            continue
        maker.fold = maker.fold_of(name) or (
            maker.fold_of(entry.of) if isinstance(entry, Entry) else None)
        if maker.fold is not None and maker.fold not in told_layers:
            told_layers.add(maker.fold)
            blocks.append(layers_alike(maker))
        if isinstance(entry, Helper):
            blocks.append(_helper(maker, entry, said))
        else:
            told = _Told(maker, entry, said).section()
            if told.blocks:  # of what is put in where it is used a summary says nothing
                blocks.append(told)
        maker.fold = None
    return Section(maker.words("section.backward"), "backward", 1, tuple(blocks))


def layers_alike(maker: Maker) -> Paragraph:
    assert maker.fold is not None
    fold = maker.fold
    return Paragraph(maker.words("layer.repeated", first=str(fold.first),
                                 last=str(fold.first + fold.count - 1)))


def _hidden(maker: Maker, entry: Entry | Helper) -> bool:
    name = entry.equation.name if isinstance(entry, Helper) else entry.name
    if isinstance(entry, Entry) and entry.equation is None:  # put in where used
        place = maker.folding.places.get(entry.of)
        return place is not None and place.layer not in (
            place.fold.shown, place.fold.count - 1)
    return maker.hidden(name)


def _says(maker: Maker, rule: str, said: set[str]) -> Spans:
    """What a rule says, the first time that it is used."""
    stem = rule.split(":")[0]
    if stem in said or maker.detail == "summary":
        return ()
    said.add(stem)
    return (" ", *maker.words(f"rule.{stem}.says"))


def _helper(maker: Maker, entry: Helper, said: set[str]) -> Section:
    eq = entry.equation
    number = maker.new_number(eq.name)
    symbol = maker.symbol(eq.name)
    blocks: list[Block] = []
    rule = maker.rule(entry.rule)
    if maker.detail != "summary":
        blocks.append(Paragraph((_capital(rule), *maker.words("stop"),
                                 *_says(maker, entry.rule, said))))
    blocks.append(maker.shown(eq, number))
    title = maker.words("backward.helper", symbol=symbol)
    return Section(title, f"helper-{number}", 2, tuple(blocks))


def _capital(span: Span) -> Span:
    if isinstance(span, str):
        return span[:1].upper() + span[1:]
    return replace(span, text=span.text[:1].upper() + span.text[1:]) \
        if isinstance(span, Ref) else span


class _Told:
    """One entry of the record as blocks."""

    def __init__(self, maker: Maker, entry: Entry, said: set[str]) -> None:
        self.maker, self.entry, self.said = maker, entry, said
        self.blocks: list[Block] = []

    def section(self) -> Section:
        maker, entry = self.maker, self.entry
        gradient = entry.of in maker.program.gradients
        key = "backward.gradient" if gradient else "backward.title"
        title = maker.words(key, symbol=self._symbol())
        if maker.detail != "summary":
            self._where_read()
            for use in self._distinct():
                self._use(use)
            self._added()
        self._result(gradient)
        return Section(title, f"adjoint-{entry.of}", 2, tuple(self.blocks))

    def _symbol(self) -> Math:
        return self.maker.symbol(self.entry.of)

    @property
    def target(self) -> Access:
        """The adjoint as an element at its canonical indices."""
        if self.entry.equation is not None:
            return self.entry.equation.target
        return Access(self.entry.name, *self.entry.indices)

    def _where_read(self) -> None:
        maker, entry = self.maker, self.entry
        if entry.seeded:
            maker.rules.setdefault("seed")
            formula = maker.chain(self.target, [entry.final], entry.indices)
            self.blocks.append(Paragraph(
                maker.words("backward.seed", symbol=self._symbol(), formula=formula)))
        if len(entry.uses) > 1:
            sources = dict.fromkeys(u.source.name for u in entry.uses)
            self.blocks.append(Paragraph(maker.words(
                "backward.reads.many", symbol=self._symbol(), numbers=maker.refs(sources),
                count=str(len(entry.uses)))))

    def _distinct(self) -> list[Use]:
        """The uses to tell: at most six in the standard document, the rest are like them."""
        uses = list(self.entry.uses)
        return uses if self.maker.detail == "full" or len(uses) <= 6 else uses[:4]

    def _use(self, use: Use) -> None:
        maker, entry = self.maker, self.entry
        alone = len(entry.uses) == 1
        self.blocks.append(Paragraph(maker.words(
            "backward.reads" if alone else "backward.from", symbol=self._symbol(),
            number=maker.ref(use.source.name), rule=listed(
                [(maker.rule(stem),) for stem in dict.fromkeys(
                    rule.split(":")[0] for rule in use.rules)], maker.words.text("and.rules")))))
        scope = (*use.source.indices, *use.chain.bound)
        self.blocks.append(Display((((), maker.derivative(
            use.source.target, use.occurrence, use.local, scope)),)))
        says = sum((_says(maker, rule, self.said) for rule in use.rules), ())
        if says:
            self.blocks.append(Paragraph(says[1:], quiet=True))
        if "chain:relu" in use.rules:
            self._once("backward.switch")
        self._solved(use)
        if self._placed(use):
            self.blocks.append(Paragraph(maker.words(
                "backward.place", adjoint=maker.expr(use.cotangent, use.source.indices))))
            self.blocks.append(Display((((), maker.expr(use.chain.after, scope)),)))
        maker.rules.setdefault("indices")
        if not alone or entry.sum is not None or entry.collected is not None:
            self.blocks.append(Paragraph(self._times("backward.contributes", use)))
            self.blocks.append(Display((((), maker.expr(use.body, entry.indices)),)))

    def _placed(self, use: Use) -> bool:
        """Whether the product with the adjoint is shown before it is gathered from all places."""
        return self.maker.detail == "full" and use.cotangent != 1

    def _times(self, key: str, use: Use) -> Spans:
        """The words for: times the adjoint of what reads the element, at that place."""
        own = use.cotangent
        bound = dict.fromkeys(i for s in use.body.atoms(SumOver) for i in s.bound)
        over = self.maker.words("backward.over", indices=listed(
            [(self.maker.index(i.name),) for i in bound])) if bound else ()
        if own == 1 or self._placed(use):
            return self.maker.words(f"{key}.one", over=over)
        return self.maker.words(key, over=over,
                                adjoint=self.maker.expr(own, use.source.indices))

    def _solved(self, use: Use) -> None:
        """Where the index expression of the place is no plain index: what was solved."""
        maker, entry = self.maker, self.entry
        where = use.occurrence.where
        if all(isinstance(w, Index) for w in where) or len(where) != len(entry.indices):
            return
        variables = (*use.source.indices, *use.chain.bound)
        plan = index_plan(where, variables, entry.indices)
        relations: list[Spans] = [(maker.arrow(index, value, variables),)
                                  for index, value in plan.mapping.items()]
        if plan.guard != True:  # noqa: E712  (SymPy's true)
            relations.append((maker.node(Builder(variables).condition(plan.guard)),))
        tensor = maker.program.tensors[entry.of]
        place = maker.expr(tensor.at(*entry.indices), entry.indices)
        self.blocks.append(Paragraph(maker.words(
            "backward.solve", place=place, relation=listed(relations))))

    def _added(self) -> None:
        maker, entry = self.maker, self.entry
        left_out = len(entry.uses) - len(self._distinct())
        if left_out:
            self.blocks.append(Paragraph(maker.words("backward.same", count=str(left_out))))
        if entry.sum is not None:
            maker.rule("accumulate")
            self.blocks.append(Paragraph(maker.words("backward.sum")))
        if entry.collected is not None:
            maker.rule("collect")
            if entry.sum is not None:
                self.blocks.append(Display((((), maker.chain(
                    self.target, [entry.sum], entry.indices)),)))
            alone = "" if entry.sum is not None else ".alone"
            self.blocks.append(Paragraph(maker.words(f"backward.collected{alone}")))
        if entry.sum is None and entry.collected is None and entry.uses:
            key = "backward.result" if entry.equation is not None else "backward.inlined"
            self.blocks.append(Paragraph(self._times(key, entry.uses[0])))

    def _result(self, gradient: bool) -> None:
        maker, entry = self.maker, self.entry
        if entry.equation is None:
            if maker.detail == "summary" or entry.seeded:
                return
            maker.rule(entry.steps[-1].rule)
            self.blocks.append(Display((((), maker.chain(
                self.target, [entry.final], entry.indices)),)))
            return
        note = maker.layer_note(entry.name) if maker.fold is not None else ()
        number = maker.new_number(entry.name)
        self.blocks.append(maker.shown(entry.equation, number, gradient, note,
                                       maker.detail != "summary"))
        if maker.detail != "summary":
            self._combined(entry.equation)
            self._unrolled(entry.equation)
            self._weighted(entry.equation)

    def _unrolled(self, eq: Equation) -> None:
        """The first two steps of a recursion: the one behind which there is none, and the next."""
        maker, found = self.maker, self.maker.recursion(eq)
        if found is None or not found[0].size.is_Integer or found[0].size < 2:
            return
        index, step = found
        first = 0 if step > 0 else int(index.size) - 1
        for key, at in (("backward.begins", first), ("backward.next", first + step)):
            here = {index: sympy.Integer(at)}
            rest = tuple(i for i in eq.indices if i != index)
            self.blocks.append(Paragraph(maker.words(
                key, index=maker.index(index.name), at=str(at)), quiet=True))
            self.blocks.append(Display((((), maker.chain(
                rename(eq.target, here), [rename(eq.body, here)], rest)),)))

    def _once(self, key: str, **values: Span | Spans) -> None:
        """A remark that is made once in a document."""
        if key not in self.said:
            self.said.add(key)
            self.blocks.append(Paragraph(self.maker.words(key, **values), quiet=True))

    def _weighted(self, eq: Equation) -> None:
        """Of the first gradient that is a sum of inputs over samples, what it is a sum of."""
        maker = self.maker
        batch = batch_size(maker.program)
        if "backward.weighted" in self.said or not isinstance(eq.body, SumOver) \
                or eq.tensor.role != "gradient" \
                or batch not in [i.size for i in eq.body.bound]:
            return
        factors = Mul.make_args(eq.body.body)
        errors = [f for f in factors if isinstance(f, Access)
                  and (maker.program.tensors[f.name].origin or ("",))[0] == "adjoint"]
        inputs = [f for f in factors if isinstance(f, Access) and f not in errors]
        if len(factors) == 2 and errors and inputs:
            scope = (*eq.indices, *eq.body.bound)
            self._once("backward.weighted", input=maker.expr(inputs[0], scope),
                       error=maker.expr(errors[0], scope))

    def _combined(self, eq: Equation) -> None:
        """The closed form, where adjoints of statistics can be put in."""
        maker = self.maker
        made = combined(maker.program, eq)
        if made is None or len(expression_text(made.body)) > _LONGEST:
            return
        self.blocks.append(Paragraph(maker.words(
            "backward.combined", numbers=maker.refs(made.used))))
        self.blocks.append(Display((((), maker.equals(eq.target, eq.indices, made.body)),)))
        for total, mean, of in made.zeros:
            self.blocks.append(Paragraph(maker.words(
                "backward.centred", sum=maker.expr(total, eq.indices), mean=maker.symbol(mean),
                of=maker.symbol(of)), quiet=True))
