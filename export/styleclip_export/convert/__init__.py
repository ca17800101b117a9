"""Conversion of checkpoints to the networks of the model repository, compared with PyTorch."""
