"""The networks on an NVIDIA GPU: PyTorch in half precision, fused kernels, CUDA graphs.

- `model`: the Triton model of all three networks
- `stylegan2`, `e4e`, `clip_text`: the networks, built from the parameters of `model.onnx`
- `convolutions`: StyleGAN2's convolutions in the forms that cuDNN runs fast
- `kernels`: what runs between two convolutions, and in place of the largest ones
- `cuda_graphs`: calls captured for each shape
- `jpeg`: images encoded on the GPU
"""
