"""Failures of kernels in our own words."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from derive.errors import ChainruleError, DataError, MissingError


class KernelError(ChainruleError):
    """The emitted kernels do not compile here."""


class RefusedError(MissingError):
    """A GPU, or what compiles for it, cannot run the kernels."""


class NoRoomError(DataError):
    """The network, or a call, does not fit the memory of a GPU."""


class NotFiniteError(ChainruleError):
    """A loss was NaN or infinite; the parameters are those before that step."""


def _numba_error() -> type[Exception]:
    """Numba's errors; what is emitted alone need not wait for its import."""
    from numba.core.errors import NumbaError

    return NumbaError


def guarded(network: str, kernels: ModuleType, call: Callable[[], Any]) -> Any:
    """What a call of the kernels of a network gives."""
    try:
        return call()
    except _numba_error() as error:
        import numba

        raise KernelError(
            f"Numba cannot compile the kernels of {network!r}",
            got=str(error).strip().splitlines()[0][:200],
            mend=f"report this with the file {kernels.__file__}; numba {numba.__version__}, "
            f"numpy {np.__version__}",
        ) from None
    except MemoryError as error:
        what, got = f"{network!r} does not fit the memory", str(error) or None
        if getattr(kernels, "TARGET", "cpu") == "cuda":
            raise NoRoomError(what, got=got, mend='what is said above, or device="cpu"') from None
        raise DataError(what, got=got, mend="smaller batches") from None
    except getattr(kernels, "Refused", ()) as error:
        raise RefusedError(f"the kernels of {network!r} cannot run on this device",
                           got=str(error), mend='device="cpu", or what is said above') from None
    except kernels.NotFinite as error:
        raise NotFiniteError(
            f"the loss of {network!r} is NaN or infinite at step {error.step}",
            mend="a smaller learning rate, or look for zeros under log, sqrt and division",
        ) from None
    except Exception as error:
        if not of_a_device(error):
            raise
        said = first_line(error)
        if "OUT_OF_MEMORY" in str(error):  # others took what was free a moment ago
            raise NoRoomError(f"{network!r} does not fit the memory", got=said,
                              mend="smaller batches, or end what else runs on the GPU") from None
        raise RefusedError(f"the kernels of {network!r} do not run on this device", got=said,
                           mend='`chainrule doctor` shows what is here; device="cpu" '
                           "does without a GPU") from None


def of_a_device(error: BaseException) -> bool:
    """Whether an exception is one of a driver, or of a library that compiles for a GPU."""
    return type(error).__module__.startswith(("numba.cuda.", "numba_cuda.", "cuda.", "cupy"))


def first_line(error: BaseException) -> str:
    """What an exception says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
