"""e4e's layers around the large convolutions, in the language Triton (the compiler).

- `backbone`: stem, PReLU, squeeze and excitation, residual sum of IR-SE50
- `pyramid`: bilinear upsampling and lateral sum
- `heads`: the map2style convolutions and the linear layers that end in W+
- `reference`: the formula of each in PyTorch, which also runs where the kernels do not
- `launch`: where kernels run, and the tiles of elementwise kernels

Images are (N, C, H, W) in channels-last memory, so that a pixel's channels are contiguous. Features
have the encoder's dtype; biases, slopes, gates and all arithmetic are float32. A name ending in `_`
writes into its first argument, as in PyTorch.
"""
