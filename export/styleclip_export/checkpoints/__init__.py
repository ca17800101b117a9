"""Readers of published checkpoints. Nothing in a file is executed: pickles go through an unpickler
that knows a short list of names and makes inert records of the rest of what it accepts."""
