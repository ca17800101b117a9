"""Triton kernels of e4e's layers around the large convolutions; StyleFeatureEditor has some too.

- `backbone`: stem, PReLU, squeeze and excitation, residual sum of IR-SE50
- `pyramid`: bilinear upsampling and lateral sum
- `heads`: the map2style convolutions and the linear layers that end in W+
- `elementwise`: the tiles of elementwise kernels

Features are (N, H, W, C), contiguous, in the encoder's dtype; biases, slopes, gates and all
arithmetic are float32. See `kernels` for the naming convention.
"""
