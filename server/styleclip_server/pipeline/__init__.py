"""The steps of an edit as plain functions: they need neither Triton nor a network."""
