"""chainrule's first half: declare networks as index equations, derive, print and verify.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "derive.network": ["Network", "Handle"],
    "derive.naming": ["indices"],
    "derive.nodes": ["Index", "Access"],
    "derive.operations": [
        "sum", "mean", "max", "min", "prod", "logsumexp", "where", "softmax", "identity",
        "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "exp", "log",
        "sqrt", "sin", "cos", "erf", "abs", "maximum", "minimum", "clip",
    ],
    "derive.layers": [
        "add", "attention", "average_pool", "batch_norm", "bidirectional", "concatenate", "conv1d",
        "conv2d", "conv3d", "conv_transpose", "convolution", "decoder_block", "dense", "depthwise",
        "dropout", "elman", "embedding", "encoder_block", "flatten", "gaussian_noise",
        "global_average_pool", "global_max_pool", "group_norm", "gru", "instance_norm",
        "layer_norm", "learned_positions", "lstm", "max_pool", "multi_head_attention", "one_hot",
        "pad", "reparametrise", "rms_norm", "rotary", "sinusoidal_positions", "take", "unflatten",
        "upsample",
    ],
    "derive.custom": ["elementary", "stopped", "straight_through"],
    "derive.netfile": ["read_network", "parse_network"],
    "derive.netwrite": ["write_network"],
    "derive.conventions": ["ledger", "with_convention"],
    "derive.jacobians": ["jacobian", "hessian", "hessian_vector", "gauss_newton_vector"],
    "derive.losses": [
        "squared_error", "mean_squared_error", "absolute_error", "huber", "hinge",
        "binary_cross_entropy", "cross_entropy", "focal", "kl_divergence", "gaussian_kl",
        "info_nce", "cosine_loss", "l1", "l2", "elastic",
    ],
    "derive.optimizers": [
        "sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw",
        "adamax", "nadam", "radam", "lion", "lamb", "Optimizer", "Rule", "rule",
    ],
    "derive.muon": ["muon"],
    "derive.lbfgs": ["lbfgs"],
    "derive.gauss_newton": ["gauss_newton"],
    "derive.schedules": ["Schedule", "cosine", "exponential", "one_cycle", "warmup"],
    "derive.metrics": ["metric", "measure"],
    "derive.differentiate": ["derive"],
    "derive.freezing": ["freeze", "savings"],
    "derive.adapters": ["adapt", "bitfit", "bottleneck", "ia3", "lora", "prefix"],
    "derive.program": ["Program", "Equation", "Tensor", "Step"],
    "derive.errors": [
        "ChainruleError", "DeclarationError", "DerivationError", "DataError", "MissingError",
    ],
    "derive.check": ["check"],
    "derive.verify": ["verify", "assert_gradient"],
    "derive.reference": ["evaluate"],
    "derive.document": ["write_document"],
    "derive.explain": ["explain"],
    "derive.symbols": ["Style"],
    "derive.importing": ["from_onnx", "load_state_dict"],
    "derive.exporting": ["save_state_dict", "to_onnx"],
    "derive.flow.moments": ["moments", "gain"],
    "derive.flow.diagnose": ["diagnose"],
}  # fmt: skip
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        from derive.errors import nearest

        guess = nearest(name, _WHERE)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise AttributeError(f"derive has no {name!r}{hint}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Some functions are called as their modules are (`check`, `verify`, `explain`): importing
    such a module must not put it in the place of the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _WHERE):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
