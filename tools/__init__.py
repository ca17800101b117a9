"""Development tools: benchmarks, capacity models, fault injection, documentation images, parity."""
