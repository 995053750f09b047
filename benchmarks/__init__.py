"""Benchmarks; `make bench` runs them. They are measurements, not tests: nothing fails because a machine is slow."""
