"""How the networks run.

All engines read the same `model.onnx`; the launcher picks the fastest: `cuda` (PyTorch and kernels
of this project) on a GPU with the extra `torch`, `openvino` on a CPU with bfloat16 instructions,
`onnxruntime` on any other CPU, or on a GPU without PyTorch.
"""
