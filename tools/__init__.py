"""What the project is developed with: benchmarks, capacity models, fault injection, pictures."""
