"""Optimizers: programs over one flat index, like any other.

Each takes the parameters ``p``, the gradient ``g``, its own states and the step number ``t``
(1 for the first step), and gives their next values through ``updates``. Settings are constants of
the program, so that a kernel can take them at run time. Weight decay, clipping and averages of the
weights are equations that any rule can be made with:

    clip_value=c     g clipped to [-c, c]
    clip_norm=c      g scaled to the norm c where its norm is larger (Pascanu et al. 2013)
    coupled=λ        λ p added to the gradient (L2)
    decay=λ          lr λ p taken off beside the step (Loshchilov and Hutter 2019)
    average=d        "average" holds d·average + (1-d) p', or with "polyak" the mean of all p'
    groups={…}       factors of settings for parameters by pattern: {"c*": {"decay": 0}}

A rule of your own is a function of equations with `rule` in front; the command line finds it in
`REGISTRY`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import sympy
from sympy import Eq, Expr, Integer, sqrt

from derive.errors import DeclarationError, unknown_name
from derive.functions import absolute, sign
from derive.naming import indices
from derive.network import Handle, Network
from derive.nodes import Select
from derive.operations import sum as total
from derive.program import Program
from derive.schedules import as_schedule

Setting = Any  # a number for who calls a rule, its symbol for who writes one
REGISTRY: dict[str, Callable[..., Optimizer]] = {}
OPTIONS = ("clip_value", "clip_norm", "coupled", "decay", "average", "groups")


@dataclass(frozen=True)
class Optimizer:
    """An update rule with its settings: ``program`` over flat tensors of size P.

    ``groups``: for a pattern of parameters' names, factors of some settings. ``matrix``: another
    program, over the elements of a matrix, for parameters of at least two dims whose name fits the
    pattern ``matrices``. ``curvature``: the gradient that the program reads is one that was
    multiplied by an inverse matrix of second derivatives (`derive.gauss_newton`).
    """

    name: str
    program: Program
    settings: dict[str, float]
    groups: tuple[tuple[str, dict[str, float]], ...] = ()
    matrix: Program | None = None
    matrices: str = "*"
    curvature: bool = False

    @property
    def programs(self) -> tuple[Program, ...]:
        """The program over a flat index, and the one for matrices where there is one."""
        return (self.program,) if self.matrix is None else (self.program, self.matrix)

    @property
    def moments(self) -> tuple[str, ...]:
        """The states that the rule keeps, in order."""
        return tuple(dict.fromkeys(t.name for p in self.programs for t in p.role("state")))


class Rule:
    """An update rule being declared: the tensors that every rule has.

    Attributes: ``p`` and ``g`` are accesses of the parameters and the gradient (clipped, and with
    coupled decay), ``t`` of the step number, ``at["lr"]`` of a setting.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.net = Network(name)
        self.n = indices("n:P")
        self._p = self.net.parameter("p", self.n)
        self.p, self.g = self._p[self.n], self.net.input("g", self.n)[self.n]
        self.t = self.net.constant("t").tensor.access
        self._states: dict[str, Handle] = {}
        self._tensor: Expr | None = None
        lr = as_schedule(settings["lr"]) if "lr" in settings else None
        numbers = {**{k: v for k, v in settings.items() if k != "lr"},
                   **(lr.settings if lr else {})}
        self.settings = {name: _number(name, value) for name, value in numbers.items()}
        if lr is not None and set(lr.settings) & (set(settings) - {"lr"}):
            raise DeclarationError("a schedule and a rule have settings of the same name",
                                   got=", ".join(set(lr.settings) & set(settings)))
        self.at = {key: self.net.constant(key).tensor.access for key in self.settings}
        if lr is not None and lr.name != "constant":
            self.at["lr"] = self.define("rate", lr.declare(self.t, self.at), ())

    def define(self, name: str, body: Expr, where: Any = None) -> Expr:
        """A named quantity of each element (or of all, with no indices)."""
        free = (self.n,) if where is None else where
        handle = self.net.define(name, free, body)
        return handle[free] if free else handle.tensor.access

    def state(self, name: str) -> Expr:
        """A moment: one number for each parameter, zero before the first step."""
        if name not in self._states:
            self._states[name] = self.net.state(name, self.n)
        return self._states[name][self.n]

    def next(self, name: str, body: Expr) -> Expr:
        """Give a moment its next value; returns the access of that value."""
        self.state(name)
        return self.net.update(self._states[name], body)[self.n]

    def average(self, name: str, decay: Expr, of: Expr) -> Expr:
        """A moment ``s' = decay s + (1 - decay) of``: an exponential moving average."""
        return self.next(name, decay * self.state(name) + (1 - decay) * of)

    def norm(self, name: str, of: Expr) -> Expr:
        """The Euclidean norm over all parameters, under a name."""
        return self.define(name, sqrt(total(of**2, self.n)), ())

    def tensor_norm(self, name: str, of: Expr) -> Expr:
        """The Euclidean norm over the elements of the tensor that element n belongs to: k[n] is
        the number of that tensor."""
        if self._tensor is None:
            self._tensor = self.net.input("k", self.n, dtype=int)[self.n]
        (j,) = [indices("j:T")]
        inside = Select(Eq(self._tensor, j), of**2)
        norms = self.net.define(name, (j,), sqrt(total(inside, self.n)))
        return norms[self._tensor]

    def close(self, parameter: Expr, average: float | str | None = None,
              groups: Mapping[str, Mapping[str, float]] | None = None) -> Optimizer:
        """Give the parameters their next value; the rule is complete."""
        new = self.net.update(self._p, parameter)[self.n]
        if average is not None:
            self._averaged(new, average)
        made = tuple((pattern, {k: float(v) for k, v in factors.items()})
                     for pattern, factors in (groups or {}).items())
        for _, factors in made:
            for name in factors:
                if name not in self.settings:
                    raise unknown_name("setting", name, self.settings)
        return Optimizer(self.net.name, self.net.program(), self.settings, made)

    def _averaged(self, new: Expr, average: float | str) -> None:
        old = self.state("average")
        if average == "polyak":
            self.next("average", old + (new - old) / self.t)
            return
        keep = self.at["average_decay"]
        self.next("average", Select(self.t > 1, keep * old + (1 - keep) * new, new))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DeclarationError(f"the setting {name!r} is a number", got=repr(value))
    return float(value)


def rule(declare: Callable[..., Expr] | None = None, **defaults: float) -> Any:
    """Make an optimizer of a function ``(r, lr, …) -> p'`` and enter it into `REGISTRY`.

    ``r`` is a `Rule`, the other arguments are symbols of settings, whose defaults are the
    function's own. ``defaults`` are those of the options that every rule has.
    """
    if declare is None:
        return lambda function: rule(function, **defaults)
    known = {n: p.default for n, p in list(inspect.signature(declare).parameters.items())[1:]}

    @wraps(declare)
    def make(**given: Any) -> Optimizer:
        options = {**defaults, **{k: v for k, v in given.items() if k not in known}}
        return declared(declare, {**known, **{k: v for k, v in given.items() if k in known}},
                        options, [*known, *OPTIONS])

    shown = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d)
             for n, d in {**known, **dict.fromkeys(OPTIONS), **defaults}.items()]
    make.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    REGISTRY[declare.__name__] = make
    return make


def declared(declare: Callable[..., Expr], settings: dict[str, Any], options: dict[str, Any],
             known: Sequence[str]) -> Optimizer:
    """The optimizer of a function ``(r, lr, …) -> p'`` with its settings and the options that every
    rule has; ``known`` is what may be set.

    Raises:
        DeclarationError: an option that is not known.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown_name(f"setting of {declare.__name__}", name, known)
    numbers = {name: options[name] for name in ("clip_value", "clip_norm", "coupled", "decay")
               if options.get(name) is not None}
    average = options.get("average")
    if isinstance(average, str) and average != "polyak":
        raise DeclarationError(f"unknown average {average!r}", expected='a number or "polyak"')
    more = {"average_decay": average} if isinstance(average, float) else {}
    r = Rule(declare.__name__, {**settings, **numbers, **more})
    if "clip_value" in numbers:
        edge = r.at["clip_value"]
        r.g = r.define("bounded", Select(r.g > edge, edge, Select(r.g < -edge, -edge, r.g)))
    if "clip_norm" in numbers:
        norm, most = r.norm("norm", r.g), r.at["clip_norm"]
        r.g = r.define("clipped", r.g * Select(norm > most, most / norm, Integer(1)))
    if "coupled" in numbers:
        r.g = r.define("decayed", r.g + r.at["coupled"] * r.p)
    new = declare(r, **{name: r.at[name] for name in settings})
    if "decay" in numbers:
        new = new - r.at["lr"] * r.at["decay"] * r.p
    return r.close(new, average, options.get("groups"))


def make_optimizer(spec: Mapping[str, Any]) -> Optimizer:
    """The optimizer of a configuration: ``{rule, lr, …}``, where lr may be a schedule ``{kind,
    lr, …}``.

    Raises:
        DeclarationError: no such rule, schedule or setting; the nearest name is suggested.
    """
    rest: dict[str, Any] = dict(spec)
    name = rest.pop("rule", "adam")
    rules = all_rules()
    if name not in rules:
        raise unknown_name("optimizer", str(name), rules)
    return rules[name](**rest)


def all_rules() -> Mapping[str, Callable[..., Optimizer]]:
    """`REGISTRY` with the rules that live in modules of their own."""
    import derive.gauss_newton
    import derive.lbfgs
    import derive.muon  # noqa: F401  (each enters its rule)

    return REGISTRY


@rule
def sgd(r: Rule, lr: Setting = 0.1) -> Expr:
    """p' = p - lr g."""
    return r.p - lr * r.g


@rule
def momentum(r: Rule, lr: Setting = 0.1, beta: Setting = 0.9) -> Expr:
    """v' = β v + g, p' = p - lr v' (Polyak 1964, in the form of Sutskever et al. 2013)."""
    return r.p - lr * r.next("v", beta * r.state("v") + r.g)


@rule
def nesterov(r: Rule, lr: Setting = 0.1, beta: Setting = 0.9) -> Expr:
    """v' = β v + g, p' = p - lr (g + β v') (Nesterov 1983, in the form of Sutskever et al.)."""
    return r.p - lr * (r.g + beta * r.next("v", beta * r.state("v") + r.g))


@rule
def adagrad(r: Rule, lr: Setting = 0.01, eps: Setting = 1e-10) -> Expr:
    """s' = s + g², p' = p - lr g/(√s' + ε) (Duchi, Hazan and Singer 2011, diagonal form)."""
    return r.p - lr * r.g / (sqrt(r.next("s", r.state("s") + r.g**2)) + eps)


@rule
def adadelta(r: Rule, lr: Setting = 1.0, rho: Setting = 0.9, eps: Setting = 1e-6) -> Expr:
    """Steps in the units of the parameter (Zeiler 2012, algorithm 1), scaled by lr."""
    square = r.average("s", rho, r.g**2)
    delta = r.define("delta", r.g * sqrt(r.state("d") + eps) / sqrt(square + eps))
    r.average("d", rho, delta**2)
    return r.p - lr * delta


@rule
def rmsprop(r: Rule, lr: Setting = 0.01, alpha: Setting = 0.99, eps: Setting = 1e-8) -> Expr:
    """s' = α s + (1-α) g², p' = p - lr g/(√s' + ε) (Tieleman and Hinton 2012)."""
    return r.p - lr * r.g / (sqrt(r.average("s", alpha, r.g**2)) + eps)


def _adam_direction(r: Rule, beta1: Expr, beta2: Expr, eps: Expr) -> Expr:
    """m̂/(√v̂ + ε), with both bias corrections."""
    m, v = r.average("m", beta1, r.g), r.average("v", beta2, r.g**2)
    return m / (1 - beta1**r.t) / (sqrt(v / (1 - beta2**r.t)) + eps)


@rule
def adam(r: Rule, lr: Setting = 1e-3, beta1: Setting = 0.9, beta2: Setting = 0.999,
         eps: Setting = 1e-8) -> Expr:
    """Adam (Kingma and Ba 2015, algorithm 1)."""
    return r.p - lr * _adam_direction(r, beta1, beta2, eps)


@rule(decay=0.01)
def adamw(r: Rule, lr: Setting = 1e-3, beta1: Setting = 0.9, beta2: Setting = 0.999,
          eps: Setting = 1e-8) -> Expr:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""
    return r.p - lr * _adam_direction(r, beta1, beta2, eps)


@rule
def adamax(r: Rule, lr: Setting = 2e-3, beta1: Setting = 0.9, beta2: Setting = 0.999,
           eps: Setting = 1e-8) -> Expr:
    """Adam under the infinity norm (Kingma and Ba 2015, algorithm 2; ε inside the maximum)."""
    m = r.average("m", beta1, r.g)
    old, now = beta2 * r.state("u"), absolute(r.g) + eps
    return r.p - lr / (1 - beta1**r.t) * m / r.next("u", Select(old > now, old, now))


@rule
def nadam(r: Rule, lr: Setting = 2e-3, beta1: Setting = 0.9, beta2: Setting = 0.999,
          eps: Setting = 1e-8, psi: Setting = 4e-3) -> Expr:
    """Adam with Nesterov's momentum (Dozat 2016, algorithm 2) under its schedule of momenta
    μₜ = β₁(1 - ½·0.96^(tψ)); their product is a state like the moments."""
    now = beta1 * (1 - sympy.Rational(24, 25) ** (r.t * psi) / 2)
    soon = beta1 * (1 - sympy.Rational(24, 25) ** ((r.t + 1) * psi) / 2)
    m, v = r.average("m", beta1, r.g), r.average("v", beta2, r.g**2)
    product = r.next("mu", Select(r.t > 1, r.state("mu"), Integer(1)) * now)
    ahead = soon * m / (1 - product * soon) + (1 - now) * r.g / (1 - product)
    return r.p - lr * ahead / (sqrt(v / (1 - beta2**r.t)) + eps)


@rule
def radam(r: Rule, lr: Setting = 1e-3, beta1: Setting = 0.9, beta2: Setting = 0.999,
          eps: Setting = 1e-8) -> Expr:
    """Adam with a rectified variance (Liu et al. 2020, algorithm 2)."""
    t = r.t
    m_hat = r.average("m", beta1, r.g) / (1 - beta1**t)
    v = r.average("v", beta2, r.g**2)
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * t * beta2**t / (1 - beta2**t)
    rectified = sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
    adaptive = rectified * sqrt(1 - beta2**t) / (sqrt(v) + eps)
    return r.p - lr * m_hat * Select(length > 5, adaptive, 1)


@rule(decay=0.0)
def lion(r: Rule, lr: Setting = 1e-4, beta1: Setting = 0.9, beta2: Setting = 0.99) -> Expr:
    """Steps of one sign each (Chen et al. 2023, algorithm 2)."""
    direction = sign(beta1 * r.state("m") + (1 - beta1) * r.g)
    r.average("m", beta2, r.g)
    return r.p - lr * direction


@rule
def lamb(r: Rule, lr: Setting = 1e-3, beta1: Setting = 0.9, beta2: Setting = 0.999,
         eps: Setting = 1e-6, shrink: Setting = 0.01) -> Expr:
    """Adam's direction with decay, scaled for each tensor by ‖p‖/‖direction‖ (You et al. 2020,
    algorithm 2, φ the identity; 1 where a norm is 0). ``shrink`` is the λ inside the direction."""
    step = r.define("direction", _adam_direction(r, beta1, beta2, eps) + shrink * r.p)
    size, length = r.tensor_norm("size", r.p), r.tensor_norm("length", step)
    trust = Select(sympy.And(size > 0, length > 0), size / length, Integer(1))
    return r.p - lr * trust * step
