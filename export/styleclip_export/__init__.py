"""Converts published checkpoints into the networks of the model repository."""
