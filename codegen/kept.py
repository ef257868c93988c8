"""What training changes of a model: kept for a while, saved to a file, read from one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derive.errors import DataError

if TYPE_CHECKING:
    from codegen.model import Model

Values = dict[str, np.ndarray]


class Kept:
    """All that training changes of a model, or its weights alone, as they were at one moment.

    The copies are where the model is: of one on a device they stay there until `places` asks.
    """

    def __init__(self, model: Model, weights: bool = False) -> None:
        self.model, self.updates, self.seed = model, model.steps, int(model._run.seed)
        self._averages = weights and model.averages
        self._there, self._here = None, {}
        if hasattr(model._run, "keep"):
            average = ("moment/average",) if self._averages else ()
            self._there = model._run.keep(("p", "s", *average) if weights else None)
        else:
            own = model.weights if weights else model.places
            self._here = {n: v.copy() for n, v in own.items()}

    def put_back(self) -> None:
        """The values and the number of steps at their places again."""
        if self._there is not None:
            self.model._run.put_back(self._there)
        for name, view in self.model.places.items() if self._here else ():
            view[...] = self._here[name]
        self.model.restored(self.updates, self.seed)

    @property
    def places(self) -> Values:
        """The values by kind and name, on the host."""
        if self._there is None:
            return self._here
        kernels, flat = self.model.kernels, self.model._run.fetched(self._there)
        named = _named("parameter", flat.pop("p"), kernels.PARAMETERS)
        named |= _named("state", flat.pop("s"), kernels.STATES)
        if self._averages:
            named |= _named("parameter", flat.pop("moment/average"), kernels.PARAMETERS)
        moments = {n.partition("/")[2]: array for n, array in flat.items()}
        return named | {f"moment/{n}": moments[n] for n in kernels.MOMENTS if n in moments}


def _named(kind: str, flat: np.ndarray, table: dict[str, tuple[int, tuple[int, ...]]]) -> Values:
    """The tensors in a flat array; what lies beyond its end (parameters not trained) is left
    out."""
    sizes = {n: int(np.prod(shape)) for n, (_, shape) in table.items()}
    return {f"{kind}/{n}": flat[at:at + sizes[n]].reshape(shape)
            for n, (at, shape) in table.items() if at + sizes[n] <= flat.size}


# -- files ---------------------------------------------------------------------------------------
def save(model: Model, path: Path) -> Path:
    """Parameters, states, moments and the step number as ``.npz``; all or nothing."""
    from derive.files import write_atomically

    content = io.BytesIO()
    np.savez(content, **model.places, steps=np.array(model.steps),  # type: ignore[arg-type]
             network=np.array(model.program.name))
    write_atomically(path, content.getvalue())
    return path


def load(model: Model, path: Path) -> int:
    """Read what `save` wrote; nothing changes unless all of it fits. Returns the step number.

    Raises:
        DataError: no such file, damaged, pickled, or of another network (tensors named).
    """
    found = _read(path)
    places = {f"parameter/{n}": v for n, v in model.parameters.items()}
    places |= {f"state/{n}": v for n, v in model.states.items()}
    wrong = []
    for name, view in places.items():
        short = name.partition("/")[2]
        if name not in found:
            wrong.append(f"{short}: expected {view.shape}, missing in the file")
        elif found[name].shape != view.shape:
            wrong.append(f"{short}: expected {view.shape}, got {found[name].shape}")
        elif not np.issubdtype(found[name].dtype, np.floating):
            wrong.append(f"{short}: expected numbers, got {found[name].dtype}")
    wrong += [f"{n.partition('/')[2]}: not a parameter of this network" for n in found
              if n.startswith(("parameter/", "state/")) and n not in places]
    if wrong:
        raise DataError(f"the weights in {str(path)!r} are those of another network",
                        got="\n    " + "\n    ".join(wrong))
    for name, view in places.items():
        view[...] = found[name]
    for name, moment in model.moments.items():
        stored = found.get(f"moment/{name}")
        fits = stored is not None and stored.shape == moment.shape
        moment[...] = stored if fits else 0
    return int(found["steps"]) if "steps" in found else 0


def _read(path: Path) -> Values:
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", expected="weights that save() wrote")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("not an .npz archive")
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{str(path)!r} is no file of weights, or it is damaged",
            expected="an .npz file without pickled objects", got=str(error)[:200],
        ) from None
