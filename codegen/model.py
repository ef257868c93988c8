"""A network with compiled kernels: parameters, losses, gradients, steps, training, saving.

Everything handed in is checked against the declaration before a kernel sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from codegen.failures import guarded
from codegen.kept import Kept, load, save
from codegen.pipeline import Compiled, determined
from derive.errors import DataError, unknown_name
from derive.program import Program

Values = dict[str, np.ndarray]
Callback = Callable[[dict[str, float]], object]


class Model:
    """A derived program with its compiled kernels.

    Made by `codegen.compile`; the parameters are zero until `initialize` or `load`.
    """

    direct = True  # whether an update needs the gradient alone: many steps are one compiled call

    def __init__(self, compiled: Compiled, kernels: ModuleType, threads: int,
                 compile_only: Callable[[Program, tuple[str, ...]], Model]) -> None:
        self.compiled, self.kernels, self.threads = compiled, kernels, threads
        self.program = compiled.program
        self._run = self._guarded(lambda: kernels.Model(threads))
        self._compile_only = compile_only
        self._others: dict[tuple[str, ...], Model] = {}
        self._parts = 1

    @property
    def device(self) -> str:
        """Where the kernels run: "cpu" or "cuda"."""
        return getattr(self.kernels, "TARGET", "cpu")

    # -- parameters ---------------------------------------------------------------------------
    @property
    def flat(self) -> np.ndarray:
        """All parameters in one array; `parameters` are named views of it."""
        return self._run.p

    @property
    def parameters(self) -> Values:
        """Each parameter by name: views, so that writing into them changes the model."""
        return dict(self._run.parameters)

    @property
    def states(self) -> Values:
        """Tensors that are kept from step to step, such as running means: views."""
        return dict(self._run.states)

    @property
    def moments(self) -> Values:
        """The optimizer's own arrays, each laid out as `flat`."""
        return dict(self._run.moments)

    @property
    def places(self) -> Values:
        """All that training changes, by kind and name (``parameter/W1``, ``state/…``,
        ``moment/…``): views."""
        named = {f"parameter/{n}": v for n, v in self._run.parameters.items()}
        named |= {f"state/{n}": v for n, v in self._run.states.items()}
        return named | {f"moment/{n}": v for n, v in self._run.moments.items()}

    @property
    def weights(self) -> Values:
        """What inference needs: parameters (their averages where the optimizer keeps some) and
        states, by kind and name; views."""
        named = {n: v for n, v in self.places.items() if not n.startswith("moment/")}
        if self.averages:
            average = self.kernels._views(self._run.moments["average"], self.kernels.PARAMETERS)
            named |= {f"parameter/{n}": v for n, v in average.items()}
        return named

    @property
    def averages(self) -> bool:
        """Whether `weights` are averages, and not the parameters."""
        return "average" in self.kernels.MOMENTS and self.steps > 0

    @contextmanager
    def weights_in_place(self) -> Iterator[None]:
        """Evaluate with `weights` as parameters until the block ends."""
        if not self.averages:
            yield
            return
        run, there = self._run, hasattr(self._run, "replace")  # on a device
        kept = run.keep(("p",)) if there else {n: v.copy() for n, v in run.parameters.items()}
        if there:
            run.replace("average")
        for name, view in run.parameters.items() if not there else ():
            view[...] = self.weights[f"parameter/{name}"]
        try:
            yield
        finally:
            if there:
                run.put_back(kept)
            for name, view in run.parameters.items() if not there else ():
                view[...] = kept[name]

    def keep(self, weights: bool = False) -> Kept:
        """A copy of all that training changes (of `weights` alone), where it is: what is on a
        device stays there until it is asked for."""
        return Kept(self, weights)

    def finite(self) -> bool:
        """Whether every parameter is."""
        if hasattr(self._run, "finite"):
            return bool(self._run.finite())
        return bool(np.isfinite(self.flat).all())

    def random_seed(self, draw: int = 0) -> int:
        """The seed of the random numbers of the next step."""
        return 1_000_003 * int(self._run.seed) + self.steps + (draw << 40)

    def restored(self, steps: int, seed: int) -> None:
        """Say that `places` were filled with what they held after ``steps`` steps."""
        self._run.steps, self._run.seed = int(steps), int(seed)
        self._settle()

    def _settle(self) -> None:
        """States' next values are those that they have."""
        if hasattr(self._run, "settle"):
            self._run.settle()
        else:
            self._run.n[...] = self._run.s

    @property
    def steps(self) -> int:
        """How many optimizer steps were done since `initialize`."""
        return int(self._run.steps)

    @property
    def settings(self) -> dict[str, float]:
        """The optimizer's settings; see `set`."""
        return dict(zip(self.kernels.SETTINGS, map(float, self._run.settings)))

    def set(self, **settings: float) -> None:
        """Change settings of the optimizer, such as ``lr``; nothing is compiled again."""
        known = list(self.kernels.SETTINGS)
        for name, value in settings.items():
            if name not in known:
                raise unknown_name("setting", name, known)
            self._run.settings[known.index(name)] = value

    def initialize(self, seed: int = 0) -> Model:
        """Set parameters as declared and zero the optimizer's moments; the same for a seed on
        every machine. Returns the model."""
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise DataError("a seed is a whole number of at least 0", got=repr(seed))
        self._run.initialize(seed)
        return self

    # -- of one of several ranks (codegen.mpi.model), others have it all ------------------------
    @property
    def apart(self) -> tuple[str, ...]:
        """The `places` of which this process has its own slices only."""
        return ()

    def whole(self, values: Values) -> Values:
        """Places as a checkpoint holds them: with slices put together."""
        return values

    def own(self, values: Values) -> Values:
        """Of the places in a checkpoint what `places` has."""
        return values

    # -- calls ----------------------------------------------------------------------------------
    def loss(self, **inputs: Any) -> float:
        """The loss of one batch."""
        checked = self._checked(inputs, "loss")
        return float(self._guarded(lambda: self._run.loss(**checked)))

    def gradients(self, **inputs: Any) -> Values:
        """The gradient of the loss (of what else was derived: a Jacobian, a Hessian) with respect
        to each tensor, by name; copies."""
        checked = self._checked(inputs, "gradient")
        found = self._guarded(lambda: self._run.gradients(**checked))
        return {n: g.copy() for n, g in found.items()}

    def forward(self, **inputs: Any) -> Values:
        """Every declared tensor that the inputs determine; labels may be left out."""
        return self.predict(None, **inputs)

    def predict(self, outputs: Iterable[str] | None = None, **inputs: Any) -> Values:
        """Tensors of the network by name.

        Args:
            outputs: which ones, adjoints too; by default every declared one that the inputs
                determine.
            inputs: the data; labels are needed only where an output depends on them.

        Raises:
            DataError: an input is missing or does not fit its declaration.
        """
        if isinstance(outputs, str):
            outputs = (outputs,)
        names = tuple(outputs) if outputs is not None else self._determined(inputs)
        for name in names:
            if name not in self.program.defined:
                raise unknown_name("tensor", name, self.program.defined)
        own = self.compiled.entries.get("forward")
        if own is not None and set(names) <= set(own.program.defined):
            needed = {t.name for t in own.program.given}
            given = {n: v for n, v in inputs.items() if n in needed}
            checked = self._checked(given, "forward")
            sizes, _ = self._guarded(lambda: self._run.run("forward", checked))
            return {n: self._run.kept("forward", sizes, n) for n in names}
        return self._apart(names).predict(names, **inputs)

    def _determined(self, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        own = {t.name for t in self.program.forward.tensors.values()}
        own -= set(self.program.updates.values())  # next values of states, kept apart
        return tuple(n for n in determined(self.program.forward, inputs)
                     if n in own and not n.startswith("_"))

    def _apart(self, names: tuple[str, ...]) -> Model:
        """A model of the equations that ``names`` need alone, on the same parameters."""
        if names not in self._others:
            self._others[names] = self.beside(self.program.only(*names), names)
        return self.share(self._others[names])

    def beside(self, program: Program, outputs: tuple[str, ...]) -> Model:
        """A model, for `predict` only, of equations over the same parameters; `share` brings it
        to their values."""
        return self._compile_only(program, outputs)

    def share(self, other: Model) -> Model:
        """``other`` with this model's parameters and states."""
        if hasattr(other._run, "adopt") and hasattr(self._run, "adopt"):  # both on the device
            other._run.adopt(self._run)
            return other
        for kind in ("parameters", "states"):
            mine = getattr(self, kind)
            for name, view in getattr(other, kind).items():
                view[...] = mine[name]
        return other

    def step(self, **inputs: Any) -> float:
        """One step of the optimizer on one batch; returns the loss before it.

        Raises:
            NotFiniteError: the loss is NaN or infinite; nothing was changed.
        """
        checked = self._checked(inputs, "gradient")
        return float(self._guarded(lambda: self._run.step(**checked)))

    def epoch(self, data: Mapping[str, Any], batch: int = 64,
              rng: np.random.Generator | int | None = None, order: Any = None) -> float:
        """One pass over the data in minibatches, in compiled code; the mean loss of a row.

        Args:
            data: every input of the network, the rows along the batch dim.
            batch: rows in a minibatch; the last one holds what is left.
            rng: shuffles the rows (a NumPy generator or a seed); none keeps them in order.
            order: the rows' numbers instead, each in its range.

        Raises:
            NotFiniteError: a loss is NaN or infinite; the parameters are those before that step.
        """
        return self._epoch(self._checked(data, "gradient"), batch, rng, order)

    def prepared(self, data: Mapping[str, Any]) -> Values:
        """Data for `train_rows`: checked once, in the kernels' dtype.

        Raises:
            DataError: an input is missing or does not fit its declaration.
        """
        return self._checked(data, "gradient")

    def resident(self, prepared: Values) -> Values:
        """`prepared` data where `train_rows` has them at hand in every call: on the device, where
        there is one."""
        upload = getattr(self._run, "upload", None)
        return prepared if upload is None else self._guarded(lambda: upload(prepared))

    def train_rows(self, prepared: Values, batch: int, order: np.ndarray) -> np.ndarray:
        """Steps over rows in the given order, in compiled code; the loss of each minibatch.

        Raises:
            NotFiniteError: a loss is NaN or infinite; the parameters are those before that step.
        """
        self._guarded(lambda: self._run.epoch(prepared, batch, order))
        return np.asarray(self._run.losses)

    def gradient(self, prepared: Values, draw: int = 0) -> tuple[float, np.ndarray]:
        """The loss of a batch and the flat gradient: a view, which the next call overwrites.

        ``draw`` tells apart the random numbers of several batches of one step.
        """
        seeds = {n: np.array([self.random_seed(draw)]) for n in self.kernels.RANDOM}
        sizes, loss = self._guarded(lambda: self._run.run("gradient", {**seeds, **prepared}))
        self._parts = self._run.parts(sizes)
        return float(loss), self._run.d

    def update(self) -> None:
        """The optimizer's step along the flat gradient that `gradient` gave."""
        self._guarded(lambda: self._run.update(self._parts))

    def _epoch(self, checked: Values, batch: int, rng: np.random.Generator | int | None,
               order: Any = None) -> float:
        order = self._row_order(checked, batch, rng, order)
        total = self._guarded(lambda: self._run.epoch(checked, batch, order))
        return float(total) / len(order)

    def _row_order(self, checked: Values, batch: int, rng: np.random.Generator | int | None,
                   order: Any) -> np.ndarray:
        """The numbers of the rows in the order in which they are to be seen."""
        if not isinstance(batch, int | np.integer) or batch < 1:
            raise DataError("a minibatch has a whole number of rows, at least one", got=repr(batch))
        rows = self.kernels.rows_of(checked)
        if order is None:
            order = np.arange(rows)
            if rng is not None:
                np.random.default_rng(rng).shuffle(order)
        order = np.ascontiguousarray(order, np.int64)
        if order.ndim != 1 or order.size == 0 or order.min() < 0 or order.max() >= rows:
            raise DataError("the order names rows that the data do not have",
                            expected=f"numbers from 0 to {rows - 1}")
        return order

    def fit(self, data: Mapping[str, Any], epochs: int = 10, batch: int = 64, seed: int = 0,
            validation: Mapping[str, Any] | None = None,
            callback: Callback | None = None) -> list[dict[str, float]]:
        """Train; ctrl-C ends it once the epoch in progress is done, keeping what was learnt.

        Returns:
            One row for each epoch: epoch, loss, seconds, and validation_loss where asked for.
        """
        checked = self.resident(self._checked(data, "gradient"))  # once, for all epochs
        held = self._checked(validation, "loss") if validation is not None else None
        rng = np.random.default_rng(seed)
        history: list[dict[str, float]] = []
        try:
            for number in range(1, epochs + 1):
                start = time.perf_counter()
                loss = self._epoch(checked, batch, rng)
                row = {"epoch": number, "loss": loss, "seconds": time.perf_counter() - start}
                if held is not None:
                    row["validation_loss"] = float(self._run.loss(**held))
                history.append(row)
                if callback is not None:
                    callback(row)
        except KeyboardInterrupt:
            pass  # what was learnt stays in the parameters, and the history is returned
        return history

    def _guarded(self, call: Callable[[], Any]) -> Any:
        return guarded(self.program.name, self.kernels, call)

    # -- data -----------------------------------------------------------------------------------
    def _checked(self, values: Mapping[str, Any], entry: str) -> Values:
        """The given tensors of an entry point, checked, contiguous and in the kernels' dtype."""
        from derive.data import check_values

        if entry not in self.compiled.entries:
            raise DataError(f"{self.program.name!r} was compiled without a {entry}",
                            expected="a program that has one: net.loss(…), dr.derive(net)",
                            got=f"entry points {', '.join(self.compiled.entries)}")
        program = self.compiled.entries[entry].program
        wanted = [t for t in program.given if t.role not in ("parameter", "state")
                  and (t.role != "random" or t.name in values)]
        known = [t.name for t in self.program.given if t.role not in ("parameter", "state")]
        for name in values:
            if name not in known:
                raise unknown_name("input", name, known)
        own = {t.name: values[t.name] for t in wanted if t.name in values}
        # against what was declared: in an entry's own program indices are cut and packed
        checked = check_values(self.program, own, names=[t.name for t in wanted])
        kinds = {"int": np.int64, "float": self.kernels.DTYPE}
        return {t.name: np.ascontiguousarray(checked[t.name], kinds[t.dtype]) for t in wanted}

    # -- saving ---------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Parameters, states, moments and the step number as ``.npz``; all or nothing."""
        return save(self, Path(path))

    def load(self, path: str | Path) -> Model:
        """Read what `save` wrote; nothing changes unless all of it fits. Returns the model.

        Raises:
            DataError: no such file, damaged, pickled, or of another network (tensors named).
        """
        self.restored(load(self, Path(path)), int(self._run.seed))
        return self
