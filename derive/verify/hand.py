"""Calling a function that somebody handed in: every way in which it can misbehave is an error
that names it, with its own line."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

from derive.data import shape_text
from derive.errors import ChainruleError, Location, nearest
from derive.program import Program
from derive.verify.precision import DOUBLE, unit


class HandError(ChainruleError):
    """The function under test is no gradient function of this network."""


class Exited(RuntimeError):
    """The function under test asks to end the whole program."""


class Hand:
    """A hand-written gradient function, called by the names of its parameters."""

    def __init__(self, function: Callable[..., Any], program: Program) -> None:
        self.function, self.program = function, program
        self.label = getattr(function, "__name__", "the function")
        _refuse(function, self.label)
        self.names = tuple(program.gradients)
        self.where = _location(function)
        self.arguments = self._arguments()
        self.settings: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.eps = DOUBLE  # of the precision in which the gradients come
        self.note = ""
        self.library = ""  # that all gradients are arrays of, where it is not NumPy
        self.heard = False  # what it prints is shown once

    def settle(self, point: Mapping[str, Any]) -> None:
        """Find out in which precision the gradients come; JAX's 64 bits are switched on for a
        function that would give 32 without them.

        Any gradient in double precision claims its digits, and so do the others: a line that
        lost them on the way is a mistake then.
        """
        found = self.paired(self.returned(point))
        libraries = {_library(v) for v in found.values()}
        self.library = libraries.pop() if len(libraries) == 1 else ""
        if self._single(found) and self.library == "JAX":
            self.settings = _sixty_four_bits
            self.note = "run with JAX's 64 bits switched on"
            try:
                found = self.paired(self.returned(point))
            except HandError:  # it mixes what it is given with arrays of 32 bits of its own
                self.settings, self.note = nullcontext, ""
        if self._single(found):
            self.eps = max(map(_unit, found.values()))
            kind = next(_dtype(v) for v in found.values() if _unit(v) == self.eps)
            self.note = f"its gradients come in {kind}: they are compared within its rounding"

    @staticmethod
    def _single(found: Mapping[str, Any]) -> bool:
        return all(_unit(value) > DOUBLE for value in found.values())

    def __call__(self, point: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The gradients at a point, float64 arrays by parameter name."""
        first = self._call(point)
        second = self._call(point)
        for name in self.names:
            if not np.array_equal(first[name], second[name], equal_nan=True):
                raise HandError(
                    f"{self.label} is random: two calls give two gradients of {name!r}",
                    mend="seed its generator inside, or pass the random numbers in",
                    where=self.where)
        return first

    def _arguments(self) -> tuple[str, ...] | None:
        """The tensors it takes, or None for ``(parameters, inputs)``."""
        given = [t.name for t in self.program.given]
        parameters = _signature(self.function, self.label, self.where)
        names = [
            p.name for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and not (p.default is not p.empty and p.name not in self.program.tensors)
        ]
        kinds = {p.kind for p in parameters}
        if inspect.Parameter.VAR_KEYWORD in kinds:  # it takes whatever there is
            names += [n for n in given if n not in names]
        elif inspect.Parameter.VAR_POSITIONAL in kinds and not names:
            raise HandError(f"{self.label} does not say what it takes", got="*args",
                            expected="parameters called like the network's tensors: "
                            + ", ".join(given), where=self.where)
        unknown = [n for n in names if n not in self.program.tensors]
        if len(names) == 2 and len(unknown) == 2:
            return None
        if unknown:
            guess = nearest(unknown[0], given)
            raise HandError(
                f"{self.label} takes {unknown[0]!r}, which is no tensor of {self.program.name!r}",
                expected="parameters called like the network's tensors: " + ", ".join(given),
                got=", ".join(names),
                mend=f"did you mean {guess!r}?" if guess else None, where=self.where)
        return tuple(names)

    def call(self, given: Callable[[str], Any]) -> Any:
        """The function's result; ``given`` makes the argument for a tensor."""
        if self.arguments is None:
            inner = {t.name for t in self.program.parameters}
            names = [t.name for t in self.program.given]
            arguments: tuple[Any, ...] = ({n: given(n) for n in names if n in inner},
                                          {n: given(n) for n in names if n not in inner})
            named: dict[str, Any] = {}
        else:
            arguments, named = (), {n: given(n) for n in self.arguments}
        quiet = redirect_stdout(StringIO()) if self.heard else nullcontext()
        self.heard = True
        try:
            with quiet:
                return self.function(*arguments, **named)
        except SystemExit as stopped:  # it is to end this call, not the search for a mistake
            raise Exited(str(stopped)).with_traceback(stopped.__traceback__) from None

    def returned(self, point: Mapping[str, Any]) -> Any:
        """What the function returns at a point, as it returns it."""
        return self._returned({n: np.array(a) for n, a in point.items()})

    def given(self, point: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Every array that the function takes at a point, by tensor."""
        values = dict(point)
        return {n: self._value(n, values) for n in self.arguments or point}

    @property
    def module(self) -> str:
        """The module that the function can be imported from, or the path of the file that it was
        read from; empty where it lies in neither."""
        found = getattr(self.function, "__module__", None) or ""
        if found == "<run_path>" and self.where:
            return self.where.file
        top = getattr(sys.modules.get(found), self.label, None)
        return found if found != "__main__" and top is self.function else ""

    def _returned(self, values: dict[str, np.ndarray]) -> Any:
        try:
            with np.errstate(all="ignore"), self.settings():
                return self.call(lambda name: self._value(name, values))
        except ChainruleError:
            raise
        except Exception as error:
            raise self._raised(error) from None

    def _call(self, point: Mapping[str, Any]) -> dict[str, np.ndarray]:
        values = {n: np.array(a) for n, a in point.items()}
        result = self._returned(values)
        for name, before in point.items():
            if not np.array_equal(values[name], before, equal_nan=True):
                raise HandError(f"{self.label} changes its input {name!r}",
                                mend=f"work on a copy: {name} = {name}.copy()", where=self.where)
        found = self.paired(result)
        return {n: self._array(n, found[n], np.shape(point[n])) for n in self.names}

    def _value(self, name: str, values: dict[str, np.ndarray]) -> np.ndarray:
        if name not in values:  # a hand-written function may take what the network computes
            values[name] = self.program.evaluate(values, (name,))[name]
        return values[name]

    def _raised(self, error: Exception) -> HandError:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if self.where and f.filename == self.where.file]
        where = Location(own[-1].filename, own[-1].lineno or 1) if own else self.where
        name = "SystemExit" if isinstance(error, Exited) else type(error).__name__
        return HandError(f"{self.label} raises {name}: {error}", where=where)

    def paired(self, result: Any) -> dict[str, Any]:
        """What the function returned, by parameter."""
        if isinstance(result, Mapping):
            found = {str(k): v for k, v in result.items()}
        else:
            parts = list(result) if isinstance(result, tuple | list) else [result]
            if len(parts) != len(self.names) or result is None:
                raise HandError(
                    f"{self.label} returns nothing" if result is None else
                    f"{self.label} returns {len(parts)} gradient{'s' * (len(parts) != 1)}",
                    expected=f"{len(self.names)}: {', '.join(self.names)}, in this order, or a "
                    "dictionary by name", got="None" if result is None else
                    f"{type(result).__name__} of {len(parts)}",
                    mend="return them at its end" if result is None else None,
                    where=self.where)
            found = dict(zip(self.names, parts, strict=True))
        missing = [n for n in self.names if n not in found]
        if missing:
            raise HandError(
                f"{self.label} returns no gradient of {missing[0]!r}",
                expected=", ".join(self.names), got=", ".join(found) or "nothing",
                where=self.where)
        return {n: found[n] for n in self.names}

    def _array(self, name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        try:
            with self.settings():
                found = np.asarray(_plain(value))
                if value is None or found.dtype.kind in "bcMmSU":
                    raise TypeError
                array = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):
            raise HandError(f"the gradient of {name!r} is no array of real numbers",
                            got=_kind(value), where=self.where) from None
        if array.shape != shape:
            declared = shape_text(self.program.tensors[name].shape)
            raise HandError(
                f"the gradient of {name!r} has another shape than {name!r}",
                expected=f"{shape}: {name} is declared as {declared}", got=f"{array.shape}",
                mend=_shape_hint(name, array.shape, shape), where=self.where)
        if not np.isfinite(array).all():
            place = [int(n) for n in np.argwhere(~np.isfinite(array))[0]]
            raise HandError(f"the gradient of {name!r} holds {array[tuple(place)]} at {place}",
                            expected="finite numbers at a finite loss", where=self.where)
        return array


def _refuse(function: Any, label: str) -> None:
    """An error for what is no function that returns gradients."""
    if isinstance(function, type):
        raise HandError(f"{label} is a class", expected="a function that returns gradients",
                        mend=f"hand in an instance that can be called, or one of {label}'s methods")
    if not callable(function):
        raise HandError("what was handed in is no function", got=repr(function)[:80],
                        expected="a function that returns gradients, or a derivation in text")
    where = _location(function)
    inner = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise HandError(f"{label} is asynchronous: calling it gives no gradients", where=where,
                        got="async def", mend="write def")
    if inspect.isgeneratorfunction(inner):
        raise HandError(f"{label} is a generator: calling it gives no gradients", where=where,
                        got="yield", mend="return all gradients at its end")


def _signature(function: Callable[..., Any], label: str, where: Location | None
               ) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # some functions that are written in C
        raise HandError(f"{label} does not say what it takes", got=repr(function)[:80],
                        expected="a function of Python", where=where) from None


def _kind(value: Any) -> str:
    dtype = _dtype(value)
    return f"an array of {dtype}" if dtype else repr(value)[:80]


def _shape_hint(name: str, got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if got == want[::-1]:
        return f"it is transposed: for y = x @ {name} the gradient is x.T @ dy"
    if len(got) == len(want) + 1 and got[1:] == want:
        return "sum it over the batch: .sum(axis=0)"
    if len(got) + 1 == len(want) or got == ():
        return "a sum runs over an axis too many"
    return "sum over the axes along which it was broadcast"


def _location(function: Callable[..., Any]) -> Location | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Location(code.co_filename, code.co_firstlineno) if code else None


def _dtype(value: Any) -> str:
    """The name of an array's dtype in NumPy, PyTorch or JAX; empty where it has none."""
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def _unit(value: Any) -> float:
    return unit(_dtype(value))


def _library(value: Any) -> str:
    """Whose array a value is, where it is not NumPy's."""
    return {"jax": "JAX", "jaxlib": "JAX", "torch": "PyTorch"}.get(
        type(value).__module__.partition(".")[0], "")


def _plain(value: Any) -> Any:
    """A tensor of PyTorch without its graph, in a dtype that NumPy has."""
    if _library(value) != "PyTorch" or not hasattr(value, "detach"):
        return value
    return value.detach().cpu().double().numpy()


def _sixty_four_bits() -> AbstractContextManager[Any]:
    jax = sys.modules["jax"]
    # the switch of jax 0.8 on; it has no truth value
    switch = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    return switch(True)  # type: ignore[no-any-return]
