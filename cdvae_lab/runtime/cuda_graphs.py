"""Run a function of tensors as one CUDA graph, so that a step costs one launch instead of hundreds.

On a CPU a `Graphed` function is the function itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before capture


class Graphed:
    """A function of tensors to a tuple of tensors, captured once for every set of shapes and replayed afterwards.

    The first calls run without a graph, on a side stream as capture requires. The function may have side effects (an
    optimizer step); every call has them exactly once. Inputs are copied into the buffers of the graph, unless the same
    tensor object is passed again; outputs are cloned, so that returned tensors never change.

    Args:
        function: function to capture; it must not synchronize the device, and its shapes must not depend on values.
        device: device that it runs on.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], device: torch.device) -> None:
        self.plain = function
        self.on_gpu = device.type == "cuda"
        self.calls: dict[tuple, int] = {}
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]] = {}
        self.last: dict[tuple, tuple[Tensor, ...]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not self.on_gpu:
            return self.plain(*inputs)
        shapes = tuple((x.shape, x.dtype) for x in inputs)
        calls = self.calls[shapes] = self.calls.get(shapes, 0) + 1
        if calls <= WARM_UP:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                outputs = self.plain(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            return tuple(x.detach().clone() for x in outputs)
        if shapes not in self.graphs:
            buffers = [x.clone() for x in inputs]
            graph = torch.cuda.CUDAGraph()
            # Not "global", which would forbid other threads, such as NCCL's, to query their own events meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                captured = self.plain(*buffers)
            self.graphs[shapes] = graph, buffers, captured
            self.last[shapes] = inputs
        graph, buffers, captured = self.graphs[shapes]
        for buffer, new, old in zip(buffers, inputs, self.last[shapes], strict=True):
            if new is not old:
                buffer.copy_(new)
        self.last[shapes] = inputs
        graph.replay()
        return tuple(x.detach().clone() for x in captured)
