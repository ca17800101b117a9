"""Checks the machine before anything is installed."""
