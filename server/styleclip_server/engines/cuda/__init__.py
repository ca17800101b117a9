"""The networks as an NVIDIA GPU runs them best: half precision, fused kernels, CUDA graphs.

Needs PyTorch (the extra `torch`); weights are read from the same `model.onnx` that other backends
run, so a domain is one set of files. `network.py` is the Triton model of all three networks.
"""
