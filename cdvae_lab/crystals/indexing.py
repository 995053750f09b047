"""Selection of rows of a batch or a data set; the result is always a batch."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

Index = SupportsIndex | slice | Tensor | np.ndarray | Sequence[int] | Sequence[bool]
"""One number, a slice, several numbers, or a mask with one truth value per row."""


def chosen_rows(which: Any, count: int, device: torch.device, rows: str = "crystals") -> slice | Tensor:
    """Turn an `Index` into a slice or a 1-D index tensor, which keep the first axis of a tensor.

    Numbers are checked where that needs no synchronization with a GPU: everywhere but in a tensor on a GPU.

    Args:
        which: an `Index`.
        count: number of rows to choose from.
        device: where numbers and masks that are not tensors go.
        rows: name of the rows in an error.

    Raises:
        IndexError: for a number that no row has, or a mask of another length.
        TypeError: for anything that is not an `Index`.
    """
    if isinstance(which, slice):
        return which
    if isinstance(which, str | bytes):
        raise TypeError(_not_an_index(which, rows))
    if isinstance(which, SupportsIndex) and not isinstance(which, bool | np.bool_ | Tensor | np.ndarray):
        number = which.__index__()
        if not -count <= number < count:
            raise IndexError(_out_of_range(number, count, rows))
        number %= count
        return slice(number, number + 1)
    try:
        index = which if isinstance(which, Tensor) else torch.as_tensor(which, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(_not_an_index(which, rows)) from error
    if index.numel() == 0 and index.ndim == 1 and not isinstance(which, Tensor):
        index = index.long()  # an empty list has the type of floats
    if index.dtype == torch.bool:
        if index.shape != (count,):
            raise IndexError(f"a mask of shape {tuple(index.shape)} for {count} {rows}; give one value for each")
        return index
    if index.is_floating_point() or index.is_complex() or index.ndim > 1:
        raise TypeError(_not_an_index(which, rows))
    index = index.reshape(-1).long()
    if index.device.type == "cpu" and index.numel():
        for number in (int(index.min()), int(index.max())):
            if not -count <= number < count:
                raise IndexError(_out_of_range(number, count, rows))
    return index


def _out_of_range(number: int, count: int, rows: str) -> str:
    if count == 0:
        return f"number {number} of no {rows}: this is an empty selection"
    return f"number {number} of {count} {rows}; give one from {-count} to {count - 1}"


def _not_an_index(which: Any, rows: str) -> str:
    text = repr(which)
    return (
        f"{text if len(text) < 60 else type(which).__name__} chooses no {rows}; give a number, a slice, a sequence of "
        "numbers, or a mask"
    )
