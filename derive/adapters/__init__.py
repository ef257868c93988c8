"""Adapters: small trained parts in an existing program, as equations; nothing else is trained."""

from derive.adapters.activations import bottleneck, ia3
from derive.adapters.adapt import Adapted, adapt, biases, bitfit
from derive.adapters.low_rank import lora
from derive.adapters.prefixes import prefix

__all__ = ["Adapted", "adapt", "biases", "bitfit", "bottleneck", "ia3", "lora", "prefix"]
