"""What an emitted module's buffers take while it trains, known before it runs."""

from __future__ import annotations

import numpy as np
from sympy import Expr, Integer, Mul

from codegen.entries import given
from codegen.pipeline import Compiled

SHOWN = 64  # what each run-time size is in the sentence of `footprint_text`


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


def footprint_text(compiled: Compiled, dtype: str = "float32") -> str:
    """``Training on batches of 64 takes 1.31 MB, on two threads 1.35 MB.``"""
    sizes = dict.fromkeys(compiled.program.sizes, SHOWN)
    one, two = (float(training_bytes(compiled, n, dtype).subs(sizes))/1e6 for n in (1, 2))
    what = " and ".join(f"{size} = {SHOWN}" for size in compiled.program.sizes)
    return f"Training{f' with {what}' if what else ''} takes {one:.3g} MB, " \
           f"on two threads {two:.3g} MB."
