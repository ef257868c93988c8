"""Import what people have: ONNX files become index equations, safetensors become values.

Both are read as data: nothing in a file is executed, and pickled files are refused.
"""

from derive.importing.onnx_graph import from_onnx
from derive.importing.state_dict import load_state_dict

__all__ = ["from_onnx", "load_state_dict"]
