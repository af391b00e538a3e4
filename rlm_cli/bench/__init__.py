"""Measure: this harness against the public `rlms` package, side by side in one run (`python -m rlm_cli.bench`).

A leaf: nothing imports it, and it drives the products from outside, as processes. The model is a loopback server, so
a figure is the harness's own time and memory. docs/BENCHMARKS.md says what each figure means and how it is taken.
"""
