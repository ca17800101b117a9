"""The steps of an edit as plain functions; they need no Triton, networks or environment."""
