"""Export: a program as an ONNX file, weights under PyTorch's names."""

from derive.exporting.onnx_export import to_onnx
from derive.exporting.state_dict import save_state_dict

__all__ = ["save_state_dict", "to_onnx"]
