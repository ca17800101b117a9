"""The GPU kernels, each above its launcher: in the language Triton, and for Hopper in Gluon."""
