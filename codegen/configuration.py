"""The configuration of a run: one small TOML file, or the options of the command line.

    model = "net.py"
    out = "run"

    [train]
    epochs = 50
    batch = 64

    [data]
    source = "digits"

    [optimizer]
    rule = "adam"
    lr = {kind = "cosine", lr = 1e-3, steps = 2000}

    [stopping]
    patience = 10

    [checkpoints]
    seconds = 60

    [ranks]
    shard = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from codegen.training import Plan
from derive.errors import DataError, DeclarationError, unknown_name
from derive.optimizers import Optimizer, make_optimizer


@dataclass(frozen=True)
class DataPlan:
    """Where the data are, and what is held out of training.

    ``source``: a shipped data set, a file, or "" for the model file's ``data()``; ``columns`` says
    for each input which columns of a table it takes.
    """

    source: str = ""
    test_share: float = 0.2
    validation_share: float = 0.0
    metrics: tuple[str, ...] | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)
    standardise: bool | None = None

    def __post_init__(self) -> None:
        for name in ("test_share", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"{name} is a share", expected="0 or more, less than 1",
                                got=getattr(self, name))
        if self.test_share + self.validation_share >= 1:
            raise DataError("nothing is left to train on", expected="shares of less than 1 in all")


@dataclass(frozen=True)
class RanksPlan:
    """How several ranks train one model: whether each keeps a slice of the optimizer's state only,
    the 16-bit format in which gradients are sent ("" for their own), bytes that are sent together.
    """

    shard: bool = False
    compress: str = ""
    bucket: int = 1 << 20

    def __post_init__(self) -> None:
        if self.compress not in ("", "float16", "bfloat16"):
            raise DataError("gradients are not sent in that format", got=repr(self.compress),
                            expected="float16, bfloat16, or nothing")
        if self.bucket < 1:
            raise DataError("a bucket has at least one byte", got=self.bucket)


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on, besides the files that it names. ``device`` and
    ``products``: as for `codegen.compile`; a run that began says there which device it took."""

    model: str
    out: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    products: str = "own"
    threads: int = 0
    plan: Plan = field(default_factory=Plan)
    data: DataPlan = field(default_factory=DataPlan)
    ranks: RanksPlan = field(default_factory=RanksPlan)
    optimizer: dict[str, Any] = field(default_factory=lambda: {"rule": "adam"})

    def make_optimizer(self) -> Optimizer:
        """The update rule.

        Raises:
            DeclarationError: no such rule, schedule or setting.
        """
        return make_optimizer(self.optimizer)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RunConfig:
        rest = {k: v for k, v in stored.items() if k not in ("plan", "data", "ranks")}
        return cls(plan=_made(Plan, stored["plan"], "plan"),
                   data=_made(DataPlan, stored["data"], "data"),
                   ranks=_made(RanksPlan, stored.get("ranks", {}), "ranks"), **rest)

    def changed(self, **values: Any) -> RunConfig:
        """A copy with some of the plan's or the data's fields changed; None changes nothing."""
        given = {k: v for k, v in values.items() if v is not None}
        plan = {f.name: given[f.name] for f in fields(Plan) if f.name in given}
        data = {f.name: given[f.name] for f in fields(DataPlan) if f.name in given}
        ranks = {f.name: given[f.name] for f in fields(RanksPlan) if f.name in given}
        own = {f.name: given[f.name] for f in fields(RunConfig) if f.name in given}
        return replace(self, plan=replace(self.plan, **plan), data=replace(self.data, **data),
                       ranks=replace(self.ranks, **ranks), **own)


_SECTIONS: dict[str, dict[str, type]] = {
    "train": dict.fromkeys(("epochs", "batch", "seed", "accumulate", "skip"), Plan)
    | dict.fromkeys(("dtype", "device", "products", "threads"), RunConfig),
    "stopping": dict.fromkeys(("monitor", "patience", "min_delta", "plateau", "factor"), Plan),
    "checkpoints": dict.fromkeys(("seconds", "steps", "keep"), Plan),
    "data": {f.name: DataPlan for f in fields(DataPlan)},
    "ranks": {f.name: RanksPlan for f in fields(RanksPlan)},
}


def read_config(path: Path) -> RunConfig:
    """Read a configuration; file names in it are relative to its folder.

    Raises:
        DeclarationError: no such file, not TOML, or a name in it is not known (the nearest one is
            suggested) or has a value of the wrong kind.
    """
    if not path.is_file():
        raise DeclarationError(f"there is no configuration {str(path)!r}")
    try:
        stored = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path.name} is not TOML: {error}") from error
    if "model" not in stored:
        raise DeclarationError(f"{path.name} names no model", expected='model = "net.py"')
    known = {"model", "out", "optimizer", "search", *_SECTIONS}
    for name in stored:
        if name not in known:
            raise unknown_name(f"section of {path.name}", name, known)
    values: dict[type, dict[str, Any]] = {Plan: {}, DataPlan: {}, RanksPlan: {},
                                             RunConfig: {}}
    for section, names in _SECTIONS.items():
        for name, value in stored.get(section, {}).items():
            if name not in names:
                raise unknown_name(f"key of [{section}] in {path.name}", name, names)
            values[names[name]][name] = value
    plan, data = _made(Plan, values[Plan], path.name), _made(DataPlan, values[DataPlan], path.name)
    here = path.resolve().parent
    data = replace(data, source=_beside(here, data.source))
    return RunConfig(str(here / stored["model"]), str(stored.get("out", "")), plan=plan, data=data,
                     ranks=_made(RanksPlan, values[RanksPlan], path.name),
                     optimizer=dict(stored.get("optimizer", {"rule": "adam"})),
                     **_typed(RunConfig, values[RunConfig], path.name))


def _beside(folder: Path, source: str) -> str:
    return str(folder / source) if source and (folder / source).exists() else source


def _made(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    return kind(**_typed(kind, values, where))


def _typed(kind: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values in the kinds that the fields declare; the wrong kind is an error, not a surprise."""
    made = {}
    declared = {f.name: str(f.type) for f in fields(kind)}
    for name, value in values.items():
        want = declared[name].split(" | ")[0].partition("[")[0]
        fits = {"int": isinstance(value, int) and not isinstance(value, bool),
                "float": isinstance(value, int | float) and not isinstance(value, bool),
                "str": isinstance(value, str), "tuple": isinstance(value, list | tuple),
                "dict": isinstance(value, dict), "bool": isinstance(value, bool)}[want]
        if not fits and not (value is None and "None" in declared[name]):
            raise DeclarationError(f"{name} in {where} is of the wrong kind", expected=want,
                                   got=repr(value))
        made[name] = {"float": float, "tuple": tuple}.get(want, lambda v: v)(value) \
            if value is not None else None
    return made
