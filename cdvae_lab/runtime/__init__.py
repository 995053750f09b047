"""Execution of tensor programs: CUDA graphs, CPU threads, several processes."""

from __future__ import annotations
