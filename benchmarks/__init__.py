"""What paris-node costs, each number beside what it is compared with in the same run. `python -m benchmarks --help`."""
