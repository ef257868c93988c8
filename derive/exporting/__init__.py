"""Export: a program as an ONNX file, weights under PyTorch's names."""

from derive.exporting.onnx_export import to_onnx

__all__ = ["to_onnx"]
