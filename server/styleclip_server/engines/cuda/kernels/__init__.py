"""The Triton-language kernels of the CUDA engine."""
