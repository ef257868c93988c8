"""Failures of kernels in our own words."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError

from derive.errors import ChainruleError, DataError, MissingError


class KernelError(ChainruleError):
    """The emitted kernels do not compile here."""


class NotFiniteError(ChainruleError):
    """A loss was NaN or infinite; the parameters are those before that step."""


def guarded(network: str, kernels: ModuleType, call: Callable[[], Any]) -> Any:
    """What a call of the kernels of a network gives."""
    try:
        return call()
    except NumbaError as error:
        raise KernelError(
            f"Numba cannot compile the kernels of {network!r}",
            got=str(error).strip().splitlines()[0][:200],
            mend=f"report this with the file {kernels.__file__}; numba {numba.__version__}, "
            f"numpy {np.__version__}",
        ) from None
    except MemoryError as error:
        raise DataError(f"{network!r} does not fit the memory", got=str(error) or None,
                        mend="smaller batches") from None
    except getattr(kernels, "Refused", ()) as error:
        raise MissingError(f"the kernels of {network!r} cannot run on this device",
                           got=str(error), mend='target="cpu", or what is said above') from None
    except kernels.NotFinite as error:
        raise NotFiniteError(
            f"the loss of {network!r} is NaN or infinite at step {error.step}",
            mend="a smaller learning rate, or look for zeros under log, sqrt and division",
        ) from None
