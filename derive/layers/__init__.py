"""Layers: functions of a tensor that add equations to its network. None has a gradient."""

from derive.layers.attention import (
    attention,
    decoder_block,
    encoder_block,
    learned_positions,
    multi_head_attention,
    rotary,
    sinusoidal_positions,
)
from derive.layers.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose,
    convolution,
    depthwise,
)
from derive.layers.dense import (
    add,
    concatenate,
    dense,
    embedding,
    flatten,
    one_hot,
    take,
    unflatten,
)
from derive.layers.noise import dropout, gaussian_noise, reparametrise
from derive.layers.normalisation import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from derive.layers.pooling import (
    average_pool,
    global_average_pool,
    global_max_pool,
    max_pool,
    pad,
    upsample,
)
from derive.layers.recurrent import bidirectional, elman, gru, lstm

__all__ = [
    "add",
    "attention",
    "average_pool",
    "batch_norm",
    "bidirectional",
    "concatenate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose",
    "convolution",
    "decoder_block",
    "dense",
    "depthwise",
    "dropout",
    "elman",
    "embedding",
    "encoder_block",
    "flatten",
    "gaussian_noise",
    "global_average_pool",
    "global_max_pool",
    "group_norm",
    "gru",
    "instance_norm",
    "layer_norm",
    "learned_positions",
    "lstm",
    "max_pool",
    "multi_head_attention",
    "one_hot",
    "pad",
    "reparametrise",
    "rms_norm",
    "rotary",
    "sinusoidal_positions",
    "take",
    "unflatten",
    "upsample",
]
