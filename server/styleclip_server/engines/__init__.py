"""How the networks run: ONNX Runtime, OpenVINO, and PyTorch with our own CUDA kernels."""
