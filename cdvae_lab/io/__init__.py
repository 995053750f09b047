"""Reading and writing: structure files, tables of tensors, safetensors files, bundled assets."""

from __future__ import annotations
