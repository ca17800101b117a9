"""GPU kernels, each above its launcher, in Triton (the GPU language, not the server) and Gluon.

A kernel's docstring is its formula; its launcher's gives shapes and dtypes. A launcher whose name
ends in `_` writes into its first argument, as in PyTorch. In kernels, `x_ptr` is a tensor's address
and `x_ptrs` are those of a block; upper case is constant at compile time: sizes that the code is
specialized for, `BLOCK_*` (the tile of a program), flags.
"""
