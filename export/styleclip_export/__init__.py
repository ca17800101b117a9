"""Converts checkpoints into the networks of the model repository."""
