"""The networks on an NVIDIA GPU: PyTorch in half precision, fused kernels, CUDA graphs.

- `stylegan2`, `e4e`, `clip_text`: the networks, built from the parameters of `model.onnx`
- `feature_editor`: StyleFeatureEditor's networks, which continue with those of `stylegan2`
- `residual_units`: the units of e4e and `feature_editor`, without batch norms
- `hopper_block`: the last block of `stylegan2` on a Hopper GPU
- `convolutions`: StyleGAN2's convolutions in the forms that cuDNN runs fast
- `kernels`: what runs between two convolutions, and in place of the largest ones
- `faces`: dlib's face detector and landmark predictor
- `parameters`: weights by name, moved to the GPU
- `cuda_graphs`: calls captured for each shape
- `jpeg`: images encoded on the GPU
- `prebuilt`, `kernel_cache`: kernels that were compiled ahead, and how Triton finds them
- `host_memory`: copies of tensors for the CPU
"""
