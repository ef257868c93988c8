"""What an emitted module's buffers take while it trains, known before it runs."""

from __future__ import annotations

import numpy as np
from sympy import Expr, Integer, Mul

from codegen.entries import given
from codegen.pipeline import SHOWN, Compiled
from codegen.recompute import is_again


def training_bytes(compiled: Compiled, parts: int = 1, dtype: str = "float32") -> Expr:
    """Bytes of parameters, gradients, moments, states, work space and a minibatch, as a function
    of the run-time sizes; the data set itself is not counted."""
    program = compiled.program
    states = compiled.states.total
    flat = compiled.parameters.total + 2*states
    flat += compiled.trained*(1 + len(compiled.optimizer.moments))
    plan = compiled.entries["gradient"].plan
    numbers = [Mul(*t.shape)*8 for t in given(program) if t.dtype == "int"]
    item = np.dtype(dtype).itemsize
    floats = [Mul(*t.shape) for t in given(program) if t.dtype != "int"]
    return item*(flat + plan.arena(Integer(parts)) + sum(floats)) + sum(numbers)


def shown_bytes(compiled: Compiled, parts: int = 1, dtype: str = "float32") -> int:
    """`training_bytes` with `SHOWN` of each run-time size."""
    sizes = dict.fromkeys(compiled.program.sizes, SHOWN)
    return int(training_bytes(compiled, parts, dtype).subs(sizes))


def footprint_text(compiled: Compiled, dtype: str = "float32") -> str:
    """``Training on batches of 64 takes 1.31 MB, on two threads 1.35 MB.``"""
    one, two = (shown_bytes(compiled, n, dtype)/1e6 for n in (1, 2))
    what = " and ".join(f"{size} = {SHOWN}" for size in compiled.program.sizes)
    text = f"Training{f' with {what}' if what else ''} takes {one:.3g} MB, " \
           f"on two threads {two:.3g} MB."
    schedule = compiled.entries["gradient"].schedule
    tiled = {eq.name for sweep in schedule.sweeps for eq in sweep.equations}
    again = [eq.name for eq in schedule.program.equations
             if is_again(eq.tensor) and eq.name not in tiled]
    count = f"{len(again)} intermediates are" if len(again) != 1 else "One intermediate is"
    return text + (f" {count} computed again in the backward pass." if again else "")
