"""Checks a served domain of full size against PyTorch."""
