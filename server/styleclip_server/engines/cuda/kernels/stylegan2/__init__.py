"""Triton kernels of StyleGAN2's layers around the convolutions.

- `modulation`: W+ to styles, styles to demodulation coefficients (dcoefs)
- `epilogue`: what follows a convolution: dcoefs, noise, bias, leaky ReLU, toRGB
- `upsample`: the resample filter of an upsampling convolution, and its epilogue

The formulas are those of `styleclip_networks.stylegan2`. Features are (N, H, W, C), contiguous, in
half precision. Each image crosses memory twice per layer: the convolution reads and writes it, and
so does one epilogue. To keep up with memory, an epilogue computes in half precision, two numbers
per instruction, wherever operands and result are half precision; toRGB's sums are float32.
"""
