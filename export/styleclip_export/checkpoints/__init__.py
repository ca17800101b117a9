"""Readers of published checkpoints.

Nothing in a file is executed: pickles are read by an unpickler that can only build data, and arrays
stay views of the mapped file until their names and shapes are known to fit.
"""
