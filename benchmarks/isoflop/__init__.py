"""Experts beside one model at equal training FLOPs, on pictures or clips. `python -m benchmarks.isoflop --help`."""
