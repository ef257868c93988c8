"""The public calls: compile a derived program in process, or emit it as a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from codegen.cuda_device import simulated
from codegen.failures import NoRoomError, RefusedError, first_line
from codegen.footprint import footprint_text, shown_bytes
from codegen.half import STORAGES
from codegen.memory import Storage
from codegen.model import Model
from codegen.module import cache_path, load, render, render_cuda, write
from codegen.pipeline import SHOWN, STORAGE, Compiled, compile_program, is_program
from codegen.rates import WAYS, read_kept
from codegen.recompute import AUTO
from derive.errors import DeclarationError, MissingError, nearest
from derive.jacobians import gauss_newton_vector
from derive.optimizers import REGISTRY, Optimizer, sgd
from derive.program import Program

TARGETS = ("cpu", "cuda")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "float64", *STORAGES)
PRODUCTS = ("own", "vendor")


class VendorError(MissingError):
    """The vendor's matrix products are asked for, and what calls them is missing."""


def compile(program: Program, target: str | None = None, optimizer: Optimizer | None = None,
            dtype: str = "float32", parallel: bool | Literal["auto"] = "auto",
            threads: int | None = None, directory: str | Path | None = None,
            device: str | None = None, storage: Storage = STORAGE,
            recompute: str | int = "auto", tune: bool | float = False,
            products: str = "own") -> Model:
    """Compile a derived program for this machine.

    Args:
        program: what `derive.derive` gives: equations, one loss, gradients.
        target: "cpu" or "cuda"; by default what ``device`` says.
        optimizer: the update rule; by default ``sgd()``.
        dtype: "float32" or "float64", of everything but labels; of the target "cuda" also
            "float16" or "bfloat16": intermediates are stored so, all else is single precision.
        parallel: "auto" splits work among threads where that pays, True always allows it where it
            pays at run time, False never.
        threads: how many at most; by default as many as Numba has.
        directory: where compiled modules are kept; by default the user's cache folder
            (``CHAINRULE_CACHE``, else ``XDG_CACHE_HOME``/chainrule).
        device: "auto" takes a GPU where there is one and the CPU else, "cuda" insists on one,
            "cpu" takes the CPU; by default "auto" for the target "cuda", else "cpu". What
            follows, and ``parallel`` and ``threads``, are the CPU's.
        storage: how intermediates are stored (`codegen.memory.Storage`); by default as is fastest.
        recompute: how many bytes training may take with 64 of each run-time size on two threads
            (what `emit` tells): above that, intermediates are computed again in the backward pass.
            "auto" is 8 GiB, and takes what is least above it; "none" keeps all. The CPU's.
        tune: measure each way of each sum over windows here and take the fastest (`codegen.tune`);
            a number is of how many seconds at most. The CPU's.
        products: on a GPU, "own" matrix products or the "vendor"'s, of cuBLAS through cupy.

    Where "auto" leaves a GPU alone, because the rule or an option is the CPU's only, or because
    kernels cannot run on it (its age, its limits, its free memory, its compiler library), a
    RuntimeWarning says why.

    Returns:
        A `Model`; call ``initialize`` or ``load`` before training.

    Raises:
        DeclarationError: an unknown target, device or dtype, two that contradict each other, what
            a GPU alone has asked of the CPU, or a parameter whose size is not a number.
        DerivationError: the program is not derived, has no loss or no gradients.
        MissingError: ``device="cuda"`` and there is none, or the vendor's products and no cupy:
            says what is missing; ``device="cuda"`` and the device cannot run the kernels.
        DataError: ``device="cuda"`` and the parameters do not fit its memory.
        DeclarationError: training takes more than ``recompute`` bytes whatever is computed again.
        DataError: what was measured on this machine cannot be read, or written (``tune``).
    """
    _handed_in(program, optimizer)
    _known("dtype", dtype, DTYPES)
    _known("products", products, PRODUCTS)
    chosen = optimizer or sgd()
    wanted = _wanted(target, device)
    made = "" if wanted == "cpu" else _on_gpu(
        program, chosen, wanted, dtype, directory, products, cpu_only(chosen, recompute, tune))
    if isinstance(made, Model):
        return made
    _for_the_cpu(dtype, products, wanted, made)
    # settings are handed over at run time: another learning rate finds the same compiled module
    storage = _measured(program, storage, dtype, tune, directory)
    compiled = compile_program(program, replace(chosen, settings=dict.fromkeys(chosen.settings, 1)),
                               storage=_limited(storage, recompute, dtype))
    _within(compiled, recompute, dtype)
    count = _threads(threads)
    split = count > 1 if parallel == "auto" else bool(parallel)
    kernels = load(render(compiled, dtype, split, cache=True), directory)

    def only(part: Program, outputs: tuple[str, ...]) -> Model:
        return _forward_model(part, outputs, compiled.optimizer, dtype, directory)

    model = Model(compiled, kernels, count if split else 1, only)
    if chosen.curvature:
        from codegen.gauss_newton import GaussNewtonModel

        curved = gauss_newton_vector(program, wrt=list(program.gradients))
        model = GaussNewtonModel(model, compile(curved, "cpu", None, dtype, parallel, threads,
                                                directory))
    model.set(**chosen.settings)
    return model


def cpu_only(optimizer: Optimizer, recompute: str | int, tune: bool | float) -> str | None:
    """What of a call a GPU cannot do, as the beginning of a sentence; None where it can do all."""
    if optimizer.curvature:
        return f"the rule {optimizer.name!r} runs"
    if recompute not in ("auto", "none"):
        return f"a limit of memory (recompute={recompute!r}) is kept"
    if tune:
        return "ways of sums over windows are measured (tune)"
    return None


def left_alone(error: MissingError | NoRoomError) -> str:
    """Why a GPU is left alone that cannot run the kernels."""
    return f"the GPU is left alone: {error.got or error.what}"


def _wanted(target: str | None, wanted: str | None) -> str:
    """The device that a call asks for: "auto", "cpu" or "cuda"."""
    _known("target", target or "cpu", TARGETS)
    wanted = wanted or ("auto" if target == "cuda" else "cpu")
    _known("device", wanted, DEVICES)
    if target == "cpu" and wanted == "cuda":
        raise DeclarationError("kernels for the CPU do not run on a GPU", expected='one of '
                               'target="cpu" and device="cuda"', mend='device="cuda" alone')
    return "cpu" if target == "cpu" else wanted


def _on_gpu(program: Program, optimizer: Optimizer, wanted: str, dtype: str,
            directory: str | Path | None, products: str, only: str | None) -> Model | str:
    """A model on a GPU; else why there is none, which is said where there is a GPU.

    ``only``: what of the call is the CPU's only.
    """
    from codegen.cuda_device import driver, find_device

    try:
        find_device()
        if only is None:
            _vendor_here(products == "vendor", dtype)
            return _device_model(program, optimizer, dtype, directory, products=products)
    except (MissingError, NoRoomError) as error:
        if wanted == "cuda" or isinstance(error, VendorError):
            raise
        if not isinstance(error, RefusedError | NoRoomError) and not driver():
            return error.what  # there is no GPU: nothing is left alone
        warnings.warn(left_alone(error), RuntimeWarning, stacklevel=3)
        return left_alone(error)
    if wanted == "cuda":
        raise DeclarationError(f"{only} on the CPU only", got='device="cuda"',
                               mend='device="cpu", or "auto", which leaves the GPU alone then')
    why = f"the GPU is left alone: {only} on the CPU only"
    warnings.warn(why, RuntimeWarning, stacklevel=3)
    return why


def _for_the_cpu(dtype: str, products: str, wanted: str, why: str) -> None:
    """Refuses what the CPU does not have; ``why`` no GPU is taken though one may be."""
    if dtype in STORAGES:
        raise DeclarationError(f"the CPU's kernels cannot store intermediates as {dtype}",
                               expected="float32 or float64", got=why or None,
                               mend='dtype="float32", or device="cuda" on a GPU that can')
    if products == "vendor" and wanted == "cpu":
        raise DeclarationError("matrix products by the vendor's library are for a GPU",
                               got='device="cpu"',
                               mend='device="cuda" (--device cuda), or products="own"')
    if products == "vendor":
        warnings.warn(f"matrix products are the CPU's own ({why})", RuntimeWarning, stacklevel=3)


def _device_model(program: Program, optimizer: Optimizer, dtype: str,
                  directory: str | Path | None, outputs: tuple[str, ...] = (),
                  products: str = "own") -> Model:
    """A model on a GPU, or on the simulator; ``outputs`` are all that it computes, if given."""
    vendor = products == "vendor"
    same = replace(optimizer, settings=dict.fromkeys(optimizer.settings, 1))
    compiled = compile_program(program, same, outputs=outputs, device=True, half=_half(dtype))
    text = render_cuda(compiled, dtype, cache=not simulated(), vendor=vendor)
    try:
        kernels = load(text, directory)
    except ImportError as error:  # one that is installed, and broken
        raise (VendorError if vendor else RefusedError)(
            "what kernels for a GPU need cannot be loaded", got=first_line(error),
            mend="`chainrule doctor` shows what is here") from None

    def only(part: Program, outputs: tuple[str, ...]) -> Model:
        forward = replace(part, gradients={}, updates={}, losses=(), jacobians={})
        return _device_model(forward, optimizer, dtype, directory, outputs, products)

    model = Model(compiled, kernels, 1, only)
    model.set(**optimizer.settings)
    return model


def _vendor_here(vendor: bool, dtype: str) -> None:
    """Refuses the vendor's matrix products where they cannot be called."""
    if vendor and dtype in STORAGES:
        raise DeclarationError(
            "matrix products by the vendor's library are in single or double precision",
            got=f"dtype={dtype!r}", mend='dtype="float32", or products="own"')
    if vendor and find_spec("cupy") is None:
        raise VendorError(
            "matrix products by the vendor's library are called through cupy, which is not "
            "installed", mend="python -m pip install cupy-cuda13x (or cupy-cuda12x, as the driver "
            'is), or products="own"')


def _forward_model(part: Program, outputs: tuple[str, ...], optimizer: Optimizer, dtype: str,
                   directory: str | Path | None) -> Model:
    """A model that computes ``outputs`` only."""
    plain = replace(part, gradients={}, updates={}, losses=(), jacobians={})
    compiled = compile_program(plain, optimizer, outputs=outputs)
    kernels = load(render(compiled, dtype, False, cache=True), directory)

    def never(_: Program, outputs: tuple[str, ...]) -> Model:
        raise AssertionError("a forward model determines all of its own tensors")

    return Model(compiled, kernels, 1, never)


def emit(program: Program, path: str | Path, target: str = "cpu",
         optimizer: Optimizer | None = None, dtype: str = "float32", force: bool = False,
         parallel: bool = True, storage: Storage = STORAGE, recompute: str | int = "auto",
         report: Callable[[str], object] = lambda line: None, products: str = "own",
         tune: bool | float = False) -> Path:
    """Write a standalone module that trains the network; see `codegen.module` for its interface.

    A module for the target "cuda" is written without a GPU, too. ``report`` is told how much memory
    training takes (of the target "cpu"), and what was measured; ``storage``, ``recompute`` and
    ``tune`` are as for `compile`.
    ``products``: "own", or "vendor" for those of cuBLAS through cupy (target "cuda", single or
    double precision).

    Raises:
        DataError: the file exists and was not written by this tool (unless ``force``).
        DeclarationError: an option is unknown, or not for this target.
    """
    _handed_in(program, optimizer)
    _known("target", target, TARGETS)
    _known("products", products, PRODUCTS)
    if products == "vendor" and (target != "cuda" or dtype in STORAGES):
        raise DeclarationError(
            "matrix products by the vendor's library are for a GPU, in single or double precision",
            got=f"target={target!r}, dtype={dtype!r}",
            mend='target="cuda" with dtype="float32", or products="own"')
    _known("dtype", dtype, DTYPES)
    path = Path(path)
    if optimizer is not None and optimizer.curvature:
        raise DeclarationError(
            f"a module with the rule {optimizer.name!r} is not emitted: it solves for each step",
            expected="a rule that reads the gradient itself, such as lbfgs",
            mend="codegen.compile runs it; codegen.emit(dr.gauss_newton_vector(net), …) writes the "
            "products that it solves with")
    if target == "cpu" and dtype in STORAGES:
        raise DeclarationError(f"a module for the CPU cannot store intermediates as {dtype}",
                               expected="float32 or float64", mend='target="cuda"')
    if target == "cuda" and recompute not in ("auto", "none"):
        raise DeclarationError("a module for a GPU keeps all intermediates",
                               expected='recompute="auto" or "none"', got=recompute,
                               mend='target="cpu", or dtype="bfloat16", which halves them')
    if target == "cpu":
        storage = _measured(program, storage, dtype, tune, None, report)
    elif tune is not False:
        raise DeclarationError("a module for a GPU is not tuned here", mend='target="cpu"')
    compiled = compile_program(program, optimizer or sgd(),
                               storage=_limited(storage, recompute, dtype),
                               device=target == "cuda", half=_half(dtype))
    if target == "cpu":
        _within(compiled, recompute, dtype)
    text = (render_cuda(compiled, dtype, path.name, vendor=products == "vendor")
            if target == "cuda" else render(compiled, dtype, parallel, path.name))
    written = write(text, path, force)
    if target == "cpu":
        report(footprint_text(compiled, dtype))
    return written


def _measured(program: Program, storage: Storage, dtype: str, tune: bool | float,
              directory: str | Path | None, report: Callable[[str], object] = lambda line: None
              ) -> Storage:
    """The storage with what is known of this machine, or is measured now."""
    if isinstance(storage.windows, str):
        _known("way of sums over windows", storage.windows, WAYS)
    if tune is not False:
        from codegen.tune import BUDGET, tuned

        budget = BUDGET if tune is True else tune
        if not isinstance(budget, int | float) or not 0 < budget < float("inf"):
            raise DeclarationError("tune is no number of seconds", got=repr(tune),
                                   expected="True, False or a positive number")
        return tuned(program, storage, dtype, directory, budget, report)
    if storage.rates is None:
        return replace(storage, rates=read_kept(cache_path(directory)).rates)
    return storage


def _limited(storage: Storage, recompute: str | int, dtype: str) -> Storage:
    """The storage with the elements that training may take."""
    if recompute == "none":
        return storage
    limit = AUTO if recompute == "auto" else recompute
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise DeclarationError("recompute is no number of bytes",
                               expected='"auto", "none" or a whole number of at least 1',
                               got=repr(recompute))
    return replace(storage, recompute=limit // (8 if dtype == "float64" else 4))


def _within(compiled: Compiled, recompute: str | int, dtype: str) -> None:
    """Refuses a limit of memory that cannot be kept."""
    if isinstance(recompute, str):
        return
    least = shown_bytes(compiled, 2, dtype)
    if least > recompute:
        raise DeclarationError(
            f"training takes {least} bytes at least, with {SHOWN} of each run-time size on two "
            "threads", expected="recompute of as many bytes", got=recompute,
            mend=f"recompute={least}, or a smaller network")


def _half(dtype: str) -> str | None:
    return dtype if dtype in STORAGES else None


def _handed_in(program: object, optimizer: object) -> None:
    """What kernels are made of, and the rule: a network, and a rule's name, are near at hand."""
    is_program(program)
    if optimizer is None or isinstance(optimizer, Optimizer):
        return
    guess = nearest(optimizer, REGISTRY) if isinstance(optimizer, str) else None
    raise DeclarationError(
        f"the optimizer {optimizer!r} is none", got=f"a {type(optimizer).__name__}",
        expected="a rule with its settings, such as dr.adam(lr=1e-3)",
        mend=f"optimizer=dr.{guess}()" if guess else None)


def _known(what: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        guess = nearest(str(value), known)
        if str(value).lower() in ("gpu", "nvidia") and "cuda" in known:
            guess = "cuda"  # nearer by what is meant than "cpu" is by its letters
        raise DeclarationError(f"unknown {what} {value!r}", expected=" or ".join(known),
                               mend=f"did you mean {guess!r}?" if guess else None)


def _threads(wanted: int | None) -> int:
    import numba

    most = int(numba.config.NUMBA_NUM_THREADS)
    if wanted is None:
        return most
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise DeclarationError("threads must be a whole number of at least 1", got=repr(wanted))
    if wanted > most:
        raise DeclarationError(f"{wanted} threads are more than Numba was started with",
                               expected=f"at most {most}", got=wanted,
                               mend=f"set NUMBA_NUM_THREADS={wanted} (CPUs: {os.cpu_count()})")
    return wanted
