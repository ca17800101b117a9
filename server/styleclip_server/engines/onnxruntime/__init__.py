"""ONNX Runtime on a CPU or GPU: `model` is its Triton backend."""
