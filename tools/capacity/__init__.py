"""Models of how a fleet scales."""
