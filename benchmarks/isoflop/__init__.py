"""Experts beside one model at equal training FLOPs, on the packaged pictures or clips. `python -m benchmarks.isoflop --help`."""
