"""Fault injection: a running server under load, one fault at a time, and what its clients saw."""
