"""Comparison of a running server of full size with PyTorch."""
