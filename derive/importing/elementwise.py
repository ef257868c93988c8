"""Operators that work element by element, with NumPy's broadcasting, and selections by masks.

A truth value computed at run time is a tensor of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import sympy
from sympy import Expr, Rational, S

from derive import functions as f
from derive.errors import DataError
from derive.importing.builder import OPERATORS, Builder, Value, number, operator, setting
from derive.importing.onnx_file import Node
from derive.network import Handle
from derive.nodes import Select
from derive.operations import clip


def elementwise(builder: Builder, node: Node, function: Callable[..., Expr],
                count: int | None = None) -> Handle:
    """The equation of ``function`` of the first ``count`` inputs of a node."""
    positions = range(len(node.inputs) if count is None else count)
    shapes = [builder.shape(builder.value(node, n)) for n in positions]
    shape = builder.broadcast(node, *shapes)
    same = next((v for n in positions if isinstance(v := builder.value(node, n), Handle)
                 and v.shape == shape), None)
    free = same.indices if same is not None else builder.indices(shape)
    return builder.define(node, free, function(*(builder.element(node, n, free)
                                                 for n in positions)))


def _hard_sigmoid(x: Expr, alpha: Expr, beta: Expr) -> Expr:
    return clip(alpha * x + beta, 0, 1)


def _selu(x: Expr, alpha: Expr, gamma: Expr) -> Expr:
    return gamma * f.elu(x, alpha)


def _gelu_tanh(x: Expr) -> Expr:
    return x / 2 * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (x + Rational(44715, 10**6) * x**3)))


_SIMPLE: dict[str, Callable[..., Expr]] = {
    "Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b, "Pow": lambda a, b: a**b, "Neg": lambda a: -a,
    "Sum": sympy.Add, "Mean": lambda *a: sympy.Add(*a) / len(a),
    "Sqrt": sympy.sqrt, "Exp": sympy.exp, "Log": sympy.log, "Tanh": sympy.tanh,
    "Sin": sympy.sin, "Cos": sympy.cos, "Erf": sympy.erf, "Reciprocal": lambda a: 1 / a,
    "Sigmoid": f.sigmoid, "Relu": f.relu, "Softplus": f.softplus, "Abs": f.absolute,
    "Softsign": lambda a: a / (1 + f.absolute(a)), "HardSwish": lambda a: a * _hard_sigmoid(
        a, Rational(1, 6), S.Half),
    "Max": lambda *a: reduce(f.maximum, a), "Min": lambda *a: reduce(f.minimum, a),
    "PRelu": lambda a, slope: Select(a > 0, a, slope * a),
}

_WITH_SETTINGS: dict[str, tuple[Callable[..., Expr], dict[str, float]]] = {
    "LeakyRelu": (f.leaky_relu, {"alpha": 0.01}),
    "Elu": (f.elu, {"alpha": 1.0}),
    "HardSigmoid": (_hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "Selu": (_selu, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
}

_COMPARE: dict[str, Callable[..., Expr]] = {
    "Equal": sympy.Eq, "Greater": sympy.Gt, "Less": sympy.Lt, "GreaterOrEqual": sympy.Ge,
    "LessOrEqual": sympy.Le,
    "And": lambda a, b: sympy.And(_true(a), _true(b)),
    "Or": lambda a, b: sympy.Or(_true(a), _true(b)), "Not": lambda a: sympy.Not(_true(a)),
}


def _true(x: Expr) -> Expr:
    return sympy.sympify(bool(x)) if x.is_number else x > S.Half


def _enter_simple(op: str, function: Callable[..., Expr]) -> None:
    OPERATORS[op] = lambda builder, node: elementwise(builder, node, function)


def _enter_with_settings(op: str, function: Callable[..., Expr],
                         settings: dict[str, float]) -> None:
    def make(builder: Builder, node: Node) -> Value:
        values = [setting(node, name, default) for name, default in settings.items()]
        return elementwise(builder, node, lambda x: function(x, *values))

    OPERATORS[op] = make


for _op, _function in _SIMPLE.items():
    _enter_simple(_op, _function)
for _op, (_function, _settings) in _WITH_SETTINGS.items():
    _enter_with_settings(_op, _function, _settings)
for _op, _function in _COMPARE.items():
    _enter_simple(_op, lambda *a, _compare=_function: Select(_compare(*a), S.One, S.Zero))


@operator("Gelu")
def _gelu(builder: Builder, node: Node) -> Value:
    kind = node.attributes.get("approximate", "none")
    return elementwise(builder, node, _gelu_tanh if kind == "tanh" else f.gelu)


@operator("Identity", "Dropout", "Cast")
def _identity(builder: Builder, node: Node) -> Value:
    """Inference: dropout leaves everything as it is; numbers have one precision here."""
    return builder.value(node, 0)


@operator("Where")
def _where(builder: Builder, node: Node) -> Value:
    return elementwise(builder, node, lambda c, a, b: Select(_true(c), a, b))


@operator("Clip")
def _clip(builder: Builder, node: Node) -> Value:
    bounds: list[Expr] = []
    for position, (name, default) in enumerate((("min", -sympy.oo), ("max", sympy.oo)), start=1):
        if name in node.attributes:
            bounds.append(setting(node, name, 0.0))
        elif builder.has(node, position):
            bounds.append(number(builder.array(node, position).reshape(-1)[0]))
        else:
            bounds.append(default)
    low, high = bounds
    if low > high:
        raise DataError(f"{node}: the lower bound lies above the upper one", got=f"{low}, {high}")

    def body(x: Expr) -> Expr:
        below = x if low == -sympy.oo else Select(x < low, low, x)
        return below if high == sympy.oo else Select(x > high, high, below)

    return elementwise(builder, node, body, 1)
