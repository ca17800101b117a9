"""StyleSpace statistics: mean and deviation of S, and fs3."""
