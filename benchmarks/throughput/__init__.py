"""How fast PPG is, and what memory it takes: `python -m benchmarks.throughput`."""
