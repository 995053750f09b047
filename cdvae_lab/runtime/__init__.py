"""How tensors are computed: CUDA graphs, CPU threads, several processes."""

from __future__ import annotations
