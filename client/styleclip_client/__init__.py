"""Typed client of the StyleCLIP server."""
