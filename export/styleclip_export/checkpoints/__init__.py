"""Readers of published checkpoints.

Nothing in a file is executed: pickles go through a machine that can only build data, arrays stay
views of the mapped file until their names and shapes are known to fit.
"""
