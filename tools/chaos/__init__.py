"""Faults on purpose: a running server under load is hurt, and what its clients saw is told."""
