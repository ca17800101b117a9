"""Malformed requests of every kind to a server of its own, and what they do to it."""
