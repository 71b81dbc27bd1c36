"""Experts beside one model at equal training FLOPs, on the packaged pictures. `python -m benchmarks.isoflop --help`."""
