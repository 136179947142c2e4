"""Benchmarks of this kind; run one with `python -m benchmarks.peers.NAME`."""
