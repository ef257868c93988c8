"""Scalar expressions as Python text: SymPy trees without reductions → one line.

A scalar has one of two contexts. *Index* text is integer arithmetic; *value* text is floating
point in the module's own precision, in which every number is wrapped (``F(0.5)``), because a bare
literal would lift the whole expression to double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import lcm

import sympy
from sympy import Expr, Integer, Mod, Rational, S, Symbol

from codegen.blend import Blend
from derive.affine import denominator
from derive.errors import ChainruleError
from derive.functions import Elementary, sample_settings
from derive.nodes import Access, Index, IntegerAccess, Reduction, Select
from derive.randomness import FIRST, GOLDEN, MASK, RESOLUTION, SECOND, uniform

# SymPy's own functions: the name of what computes them in a kernel.
FUNCTIONS = {
    "exp": "np.exp", "log": "np.log", "sin": "np.sin", "cos": "np.cos", "tan": "np.tan",
    "asin": "np.arcsin", "acos": "np.arccos", "atan": "np.arctan", "sinh": "np.sinh",
    "cosh": "np.cosh", "tanh": "np.tanh", "asinh": "np.arcsinh", "acosh": "np.arccosh",
    "atanh": "np.arctanh", "expm1": "np.expm1", "log1p": "np.log1p", "erf": "math.erf",
    "erfc": "math.erfc", "gamma": "math.gamma", "loggamma": "math.lgamma", "Abs": "abs",
    "floor": "np.floor", "ceiling": "np.ceil", "atan2": "math.atan2", "Max": "max", "Min": "min",
}  # fmt: skip
_DOUBLE_ONLY = {"math.erf", "math.erfc", "math.gamma", "math.lgamma", "math.atan2"}
_RELATIONS = {"Equality": "==", "Unequality": "!=", "StrictLessThan": "<", "LessThan": "<=",
              "StrictGreaterThan": ">", "GreaterThan": ">="}


OwnFunctions = Callable[[str], dict[str, str]]  # texts for one name, that one's own last


class UnsupportedError(ChainruleError):
    """A function that no kernel form is known for."""


class ScalarPrinter:
    """Prints scalars; ``names`` maps tensors, indices, sizes and locals to identifiers.

    ``functions`` collects the elementary functions used: the module defines each once.
    ``own`` gives a target's own texts for a function of the library, ``library`` other names of
    such, ``unsigned`` is the type
    of a place that might look negative: one that moves with the innermost
    index ``suspect``, whose loop does not begin at 0 where ``late``.
    ``rank0`` says how a tensor without dims is read (``L[0]``, or a plain variable).
    """

    def __init__(self, names: dict[object, str], cast: str = "F",
                 own: OwnFunctions | None = None, unsigned: str = "",
                 library: Mapping[str, str] | None = None) -> None:
        self.names, self.cast, self.own, self.unsigned = names, cast, own, unsigned
        self.library = library or {}
        self.suspect: Index | None = None
        self.late = False
        self.functions: dict[str, type[Elementary] | int | str] = {}
        self.bare: set[str] = set()

    # -- integers ---------------------------------------------------------------------------
    def index(self, expr: Expr) -> str:
        """Integer text of an index expression, size or count."""
        if isinstance(expr, Access):
            return self.access(expr)
        if isinstance(expr, Index):
            return self.names[expr]
        if expr.is_Symbol:
            return self.names.get(expr, expr.name)
        if expr.is_Integer:
            return str(expr)
        if isinstance(expr, sympy.floor):
            numerator, denominator = sympy.fraction(sympy.together(expr.args[0]))
            return f"({self.index(sympy.expand(numerator))}) // {self._factor(denominator)}"
        if isinstance(expr, Mod):
            above, below = sympy.fraction(sympy.together(expr.args[0]))
            text = f"({self.index(sympy.expand(above))}) % {self._factor(below * expr.args[1])}"
            return text if below == 1 else f"{text} // {self.index(below)}"
        if isinstance(expr, sympy.Max | sympy.Min):
            inner = ", ".join(self.index(a) for a in expr.args)
            return f"{'max' if isinstance(expr, sympy.Max) else 'min'}({inner})"
        if any(not number.is_Integer for number in expr.atoms(Rational)):
            numerator, denominator = sympy.fraction(sympy.together(expr))
        else:
            numerator, denominator = expr, S.One
        if denominator != 1:
            return f"({self.index(sympy.expand(numerator))}) // {self.index(denominator)}"
        if expr.is_Add:
            terms = sorted(expr.args, key=lambda a: (a.is_number, a.could_extract_minus_sign()))
            text = self.index(terms[0])
            for term in terms[1:]:
                minus = term.could_extract_minus_sign()
                text += f" {'-' if minus else '+'} {self.index(-term if minus else term)}"
            return text
        if expr.is_Mul:
            if expr.args[0] == -1:
                return f"-{self._factor(sympy.Mul(*expr.args[1:]))}"
            return "*".join(self._factor(a) for a in expr.args)
        if expr.is_Pow and expr.exp.is_Integer and expr.exp > 0:
            return "*".join([self._factor(expr.base)] * int(expr.exp))
        raise UnsupportedError(f"no kernel form for the index expression {expr}")

    def _factor(self, expr: Expr) -> str:
        text = self.index(expr)
        return f"({text})" if expr.is_Add or isinstance(expr, Mod) or " // " in text else text

    def access(self, access: Access) -> str:
        name = self.names.get(access.name, access.name)
        if not access.where:
            return name if access.name in self.bare else f"{name}[0]"
        return f"{name}[{', '.join(self._place(e) for e in access.where)}]"

    def _place(self, expr: Expr) -> str:
        """An index in brackets; unsigned where it moves with ``suspect`` (Python counts negative
        ones from the end, and a loop with that question in it is not made vectors of)."""
        text = self.index(expr)
        moves = self.unsigned and self.suspect in expr.free_symbols and not expr.has(Access)
        moves = moves and (expr != self.suspect or self.late)
        return f"{self.unsigned}({text})" if moves else text

    # -- conditions -------------------------------------------------------------------------
    def condition(self, expr: Expr) -> str:
        """Text of a condition on indices or on values."""
        if isinstance(expr, sympy.And | sympy.Or):
            word = " and " if isinstance(expr, sympy.And) else " or "
            return word.join(self._inner_condition(a) for a in
                             sorted(expr.args, key=_guarded_last))
        if isinstance(expr, sympy.Not):
            return f"not {self._inner_condition(expr.args[0])}"
        if expr == True:  # noqa: E712  (SymPy's true)
            return "True"
        if expr == False:  # noqa: E712
            return "False"
        sign = _RELATIONS[type(expr).__name__]
        if isinstance(expr.args[0], Mod) and expr.args[1] == 0:
            # whether a quotient is whole: not rounded before it is asked
            above, below = sympy.fraction(sympy.together(expr.args[0].args[0]))
            divisor = self._factor(below * expr.args[0].args[1])
            return f"({self.index(sympy.expand(above))}) % {divisor} {sign} 0"
        whole = all(a.is_integer or _is_index(a) for a in expr.args)
        sides = [sympy.expand(a) for a in expr.args] if whole else list(expr.args)
        scale = lcm(*map(denominator, sides)) if whole else 1
        if scale != 1:  # fractions of indices are compared as whole numbers, never rounded
            left, right = (self.index(sympy.expand(scale * a)) for a in sides)
        else:
            left, right = (self.index(a) if whole else self.value(a) for a in expr.args)
        return f"{left} {sign} {right}"

    def _inner_condition(self, expr: Expr) -> str:
        return f"({self.condition(expr)})"

    # -- values -----------------------------------------------------------------------------
    def number(self, value: Expr) -> str:
        if value is S.Infinity:
            return f"{self.cast}(np.inf)"
        if value is S.NegativeInfinity:
            return f"{self.cast}(-np.inf)"
        if value is S.NaN:
            return f"{self.cast}(np.nan)"
        if self.cast == "float":  # Python's own numbers are in double precision already
            return repr(float(value))
        return f"{self.cast}({int(value) if value.is_Integer else repr(float(value))})"

    def value(self, expr: Expr) -> str:
        """Floating-point text."""
        if isinstance(expr, Access):
            text = self.access(expr)
            return f"{self.cast}({text})" if expr.is_integer else text
        if isinstance(expr, Reduction):
            raise AssertionError(f"a reduction was not lowered: {expr}")
        if isinstance(expr, Select):
            return (f"({self.value(expr.yes)} if {self.condition(expr.condition)} "
                    f"else {self.value(expr.no)})")
        if isinstance(expr, Blend):
            self.functions["pick"] = PICK
            condition, yes, no = expr.args
            return f"pick({self.condition(condition)}, {self.value(yes)}, {self.value(no)})"
        if expr.is_number:
            return self.number(expr)
        if _is_index(expr) and expr.is_integer:
            return f"{self.cast}({self.index(expr)})"
        if expr.is_Symbol:
            return self.names.get(expr, expr.name)
        if expr.is_Add:
            return self._sum(expr)
        if expr.is_Mul:
            return self._product(expr)
        if expr.is_Pow:
            return self._power(expr.base, expr.exp)
        if isinstance(expr, sympy.Piecewise):
            text = self.value(expr.args[-1][0])
            for value, condition in reversed(expr.args[:-1]):
                text = f"({self.value(value)} if {self.condition(condition)} else {text})"
            return text
        return self._function(expr)

    def _sum(self, expr: Expr) -> str:
        terms = sorted(expr.as_ordered_terms(), key=lambda a: a.could_extract_minus_sign())
        text = self.value(terms[0])
        for term in terms[1:]:
            minus = term.could_extract_minus_sign()
            shown = -term if minus else term
            inner = self.value(shown)
            text += f" {'-' if minus else '+'} {f'({inner})' if shown.is_Add else inner}"
        return text

    def _product(self, expr: Expr) -> str:
        if expr.args[0] == -1:
            return f"-{self._wrapped(sympy.Mul(*expr.args[1:]))}"
        above, below = [], []
        number = S.One
        for factor in expr.as_ordered_factors():
            if factor.is_Rational:
                number = number * factor
            elif factor.is_Pow and factor.exp.is_Rational and factor.exp < 0:
                below.append(sympy.Pow(factor.base, -factor.exp))
            else:
                above.append(factor)
        if isinstance(number, Rational) and number != 1:
            if abs(number.p) == 1 and above and number.q != 1 and below:
                below.insert(0, Integer(number.q))
                number = Integer(number.p)
        head = [] if number == 1 and above else [self.number(number)]
        text = "*".join(head + [self._wrapped(f) for f in above])
        if below:
            shown = "*".join(self._wrapped(f) for f in below)
            text += f"/({shown})" if len(below) > 1 else f"/{self._divisor(below[0])}"
        return text

    def _divisor(self, expr: Expr) -> str:
        """Text that may follow a slash: a square is a product."""
        text = self._wrapped(expr)
        return f"({text})" if _is_short_square(expr) else text

    def _wrapped(self, expr: Expr) -> str:
        text = self.value(expr)
        loose = expr.is_Add or (expr.is_Mul and "/" in text) or text.startswith("-")
        return f"({text})" if loose else text

    def _power(self, base: Expr, exponent: Expr) -> str:
        if base == sympy.E:
            return f"{self._called('np.exp')}({self.value(exponent)})"
        if exponent.is_Rational and exponent < 0:
            return f"{self.cast}(1)/{self._divisor(sympy.Pow(base, -exponent))}"
        if exponent == Rational(1, 2):
            return f"{self._called('np.sqrt')}({self.value(base)})"
        if exponent.is_Integer and exponent <= 8:
            if _is_short_square(sympy.Pow(base, exponent)):
                text = self.value(base)
                return f"{text}*{text}"
            name = f"power{exponent}"
            self.functions[name] = int(exponent)
            return f"{name}({self.value(base)})"
        if exponent.is_Rational and exponent.q == 2 and exponent < 5:  # ** is many times slower
            root = f"{self._called('np.sqrt')}({self.value(base)})"
            return f"({self._wrapped(base**int(exponent))}*{root})"
        return f"{self._tight(base)}**{self._tight(exponent)}"

    def _tight(self, expr: Expr) -> str:
        """Text that binds at least as tightly as a power."""
        text = self.value(expr)
        loose = expr.is_Add or expr.is_Mul or expr.is_Pow or text.startswith("-")
        return f"({text})" if loose else text

    def _function(self, expr: Expr) -> str:
        inner = ", ".join(self.value(a) for a in expr.args)
        if isinstance(expr, Elementary):
            name = type(expr).__name__
            self.functions[name] = type(expr)
            return f"{name}({inner})"
        if isinstance(expr, uniform):
            return self._uniform(expr)
        name = FUNCTIONS.get(type(expr).__name__, "")
        if not name:
            raise UnsupportedError(
                f"no kernel form is known for the function {type(expr).__name__!r}",
                expected="one of " + ", ".join(sorted(FUNCTIONS)) + ", or one of derive.functions",
                mend="add it to derive/functions.py with a definition in primitives",
            )
        text = f"{self._called(name)}({inner})"
        return f"{self.cast}({text})" if name in _DOUBLE_ONLY else text

    def _called(self, name: str) -> str:
        """A function of the library, or what the target has instead."""
        texts = self.own(name) if self.own is not None else {}
        self.functions.update(texts)
        return list(texts)[-1] if texts else self.library.get(name, name)

    def _uniform(self, expr: Expr) -> str:
        """A random number as a function of integers: `mix` folded over the arguments."""
        self.functions["mix"] = RANDOM
        key = "np.uint64(0)"
        for argument in expr.args:
            key = f"mix({key}, {self.index(argument)})"
        return f"{self.cast}((float({key} >> np.uint64({32 - RESOLUTION})) + 0.5)/{2**RESOLUTION})"


PICK = """@inlined
def pick(condition, yes, no):
    \"\"\"One of two values that were both computed.\"\"\"
    return yes if condition else no"""
RANDOM = f"""@kernel
def mix(key, number):
    \"\"\"One more argument folded into a random number: see derive.randomness.\"\"\"
    mask = np.uint64({MASK})
    key = ((key ^ np.uint64(number & {MASK})) + np.uint64({GOLDEN})) & mask
    key ^= key >> np.uint64(16)
    key = (key*np.uint64({FIRST})) & mask
    key ^= key >> np.uint64(15)
    key = (key*np.uint64({SECOND})) & mask
    return key ^ (key >> np.uint64(16))"""


def _guarded_last(condition: Expr) -> tuple:
    """Conditions that read a tensor come behind those that keep its index in bounds; those that
    read floats come last, for gathers may stand in their indices."""
    read = condition.atoms(Access)
    floats = any(not isinstance(a, IntegerAccess) for a in read)
    return bool(read) + floats, sympy.default_sort_key(condition)


def _is_short_square(expr: Expr) -> bool:
    """Whether a power is printed as ``x*x``."""
    return expr.is_Pow and expr.exp == 2 and (
        expr.base.is_Symbol or isinstance(expr.base, Access))


def _is_index(expr: Expr) -> bool:
    """Whether a whole expression is made of indices, sizes and numbers alone."""
    return all(isinstance(s, Index) or s.is_integer for s in expr.free_symbols) and all(
        node.is_Add or node.is_Mul or node.is_Symbol or node.is_Number
        or isinstance(node, Mod | sympy.floor)
        or (node.is_Pow and node.exp.is_Integer and node.exp > 0)
        for node in sympy.preorder_traversal(expr)
    )


def helper(name: str, kind: type[Elementary] | int) -> tuple[tuple[str, ...], Expr]:
    """Arguments and body of an elementary function, or of a whole power, that a module defines."""
    x = Symbol("x", real=True)
    if isinstance(kind, int):
        return ("x",), sympy.Mul(*[x] * kind, evaluate=False)
    settings = tuple(Symbol("setting", real=True) for _ in sample_settings(kind))
    return ("x", *(s.name for s in settings)), kind.stable(x, *settings)
