"""The networks as Triton models, one module for each library that runs them."""
