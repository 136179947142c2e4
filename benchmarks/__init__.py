"""Benchmarks: each prints a table of ratios against peers measured in the same run, and writes it to results/."""
