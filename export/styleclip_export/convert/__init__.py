"""Converts checkpoints to the networks of the model repository, each compared with PyTorch."""
