"""Export: a program as an ONNX file, weights under PyTorch's names."""
