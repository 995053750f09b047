"""Distributed computing through lightning-fabric, with one process for each device.

Noise depends on the number of a crystal and not on the process, so crystals can be distributed in any way: every
process has the whole model and the whole data set, and computes some of the crystals. lightning-fabric starts the
processes and connects them, on one host or, under SLURM or torchrun, on several; the loops are those of one process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist

from cdvae_lab.errors import SettingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PATIENCE = timedelta(days=2)  # time-out of a process that waits for a slower one; a failed one is noticed at once
GRACE = 3.0  # seconds until another process reports the error instead of process 0


class Processes:
    """All processes of a run, or this one alone.

    Args:
        fabric: a launched Fabric; every process creates its `Processes` at the same place of the program.

    Attributes:
        rank: number of this process; process 0 writes files and prints.
        size: number of processes.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.fabric = fabric
        self.rank = 0 if fabric is None else fabric.global_rank
        self.size = 1 if fabric is None else fabric.world_size
        # The hosts communicate through gloo even if the devices have NCCL, so that no device waits.
        self.hosts = dist.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None

    @property
    def first(self) -> bool:
        """True in the process that writes files and prints messages."""
        return self.rank == 0

    def average(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> list[Shaped[Tensor, "..."]]:
        """Average each tensor over the processes, in a single transfer that can be part of a CUDA graph.

        Args:
            tensors: on the device, of the same shapes and type in every process.
        """
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def share(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> None:
        """Overwrite tensors on the device with those of process 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def total(self, *numbers: int) -> list[int]:
        """Sum each number over the processes; none of them continues before all have called this."""
        if self.hosts is None:
            return list(numbers)
        summed = torch.tensor([0, *numbers])
        dist.all_reduce(summed, group=self.hosts)
        return summed[1:].tolist()

    def any(self, here: bool) -> bool:
        """True in all processes if `here` is true in any of them."""
        return self.total(here) != [0]

    def gather(self, tensor: Shaped[Tensor, "..."]) -> list[Shaped[Tensor, "..."]]:
        """Gather a tensor of equal shape and type from every process, on the CPU."""
        if self.hosts is None:
            return [tensor.cpu()]
        gathered = [torch.empty_like(tensor, device="cpu") for _ in range(self.size)]
        dist.all_gather(gathered, tensor.cpu().contiguous(), group=self.hosts)
        return gathered


@contextlib.contextmanager
def launched(device: torch.device, devices: int, nodes: int) -> Iterator[Processes]:
    """Run this program once for each device within the block; with a single device, start nothing.

    The other processes of this host run the same command line up to the same block; under SLURM or torchrun they exist
    already. All end together: if one fails, all do.

    Args:
        device: type of the devices.
        devices: number of devices of each host (on a CPU: processes).
        nodes: number of hosts.

    Raises:
        SettingError: for missing devices, or numbers that differ from those of SLURM or torchrun.
    """
    if devices < 1 or nodes < 1:
        raise SettingError(f"--devices and --nodes must be at least 1, not {devices} and {nodes}")
    if devices * nodes == 1:
        if dist.is_available() and dist.is_torchelastic_launched() and (started := int(os.environ["WORLD_SIZE"])) > 1:
            raise SettingError(f"torchrun started {started} processes; give their number with --devices and --nodes")
        yield Processes()
        return
    if device.index is not None:
        raise SettingError(f"--device {device} is a single one; give {device.type} for --devices {devices}")
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise SettingError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs")
    try:
        from lightning_fabric import Fabric  # slow to import
    except ImportError as error:
        raise SettingError(
            f"--devices {devices} --nodes {nodes}: several processes need lightning-fabric; install it with "
            "pip install 'cdvae_lab[parallel]'"
        ) from error

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # otherwise it prints a line for each process
    try:
        fabric = Fabric(accelerator=device.type, devices=devices, num_nodes=nodes, strategy="ddp")
        fabric.launch()
    except ValueError as error:
        raise SettingError(f"--devices {devices} --nodes {nodes}: {error}") from error
    # The processes that this one started. Fabric's observer watches the same list and ends when it is empty.
    watched = getattr(fabric.strategy.launcher, "procs", [])
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        processes = Processes(fabric)
        yield processes
        processes.total()
    except BaseException:
        if fabric.global_rank > 0:
            time.sleep(GRACE)  # if process 0 had the same error, it reports it and ends this one
        others = list(watched)
        watched.clear()
        for process in others:
            process.kill()
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    others = list(watched)
    watched.clear()
    dist.destroy_process_group()
    for process in others:
        process.wait()
