"""StyleSpace statistics of a generator: mean and standard deviation of S, and fs3."""
