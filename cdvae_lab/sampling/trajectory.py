"""Trajectories: the record of one run of `denoise`, in memory and as a file that grows during the run.

    for frame in record(denoise(model, n=8), into="run.safetensors"):
        ...

Each frame of a `Trajectory` is a complete `DenoisingFrame`, from which `denoise` can resume.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.io import convert
from cdvae_lab.io.storage import atomic_path, read_tensors, write_tensors
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.schedules import KEPT, Schedule

FORMAT_VERSION = 1
WRITING_SHARE = 0.05  # of the time, at most, is spent on writing a growing recording


@dataclass(frozen=True)
class Trajectory:
    """Frames of one denoising run as stacked tensors; a sequence of `DenoisingFrame`s.

    Attributes:
        steps: calls of the network before each frame.
        sigmas: noise level of each frame, Å.
        frac_coords, atomic_numbers: fractional coordinates and atomic numbers of every frame.
        lattice: lattice vectors as rows, Å; a run does not change them.
        score: score that the step before each frame followed (gradient of the log-density), 1/Å.
        z, numbers, seed, schedule: as in a `DenoisingFrame`; with them a run can be resumed from any frame.
    """

    steps: Int[Tensor, " frames"]
    sigmas: Float[Tensor, " frames"]
    frac_coords: Float[Tensor, "frames crystals sites 3"]
    atomic_numbers: Int[Tensor, "frames crystals sites"]
    lattice: Float[Tensor, "crystals 3 3"]
    score: Float[Tensor, "frames crystals sites 3"]
    z: Float[Tensor, "crystals latent"]
    numbers: Int[Tensor, " crystals"]
    seed: int
    schedule: Schedule

    @classmethod
    def of(cls, frames: Iterable[DenoisingFrame], after: Trajectory | None = None) -> Trajectory:
        """Stack frames into a trajectory, on the CPU.

        Args:
            frames: of one run, in order; consumed.
            after: the record of the same run so far, to put before them.

        Raises:
            SettingError: without frames, or with frames of different runs.
        """
        frames = list(frames)
        if not frames:
            raise SettingError("a trajectory needs at least one frame")
        first = frames[0]
        for frame in frames:
            if frame.z is not first.z and not _same_run(frame, first):
                raise SettingError(f"frames of steps {first.step} and {frame.step} are of different runs; record each")
        new = cls(
            torch.tensor([f.step for f in frames]),
            torch.tensor([f.sigma for f in frames], dtype=torch.float64),
            torch.stack([f.crystals.frac_coords for f in frames]).cpu(),
            torch.stack([f.crystals.atomic_numbers for f in frames]).cpu(),
            first.crystals.lattice.cpu(),
            torch.stack([f.score for f in frames]).cpu(),
            first.z.cpu(),
            first.numbers.cpu(),
            first.seed,
            first.schedule,
        )
        if after is None:
            return new
        if not _same_run(after[0], new[0]) or int(after.steps[-1]) >= first.step:
            raise SettingError(
                f"frames from step {first.step} (seed {first.seed}) do not continue a recording that ends at step "
                f"{int(after.steps[-1])} (seed {after.seed}); record them to another file"
            )
        stacked = ("steps", "sigmas", "frac_coords", "atomic_numbers", "score")
        joined = {name: torch.cat([getattr(after, name), getattr(new, name)]) for name in stacked}
        return dataclasses.replace(after, **joined)

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """Read a recording of `record` or `save`.

        Raises:
            CheckpointError: if it is missing, truncated, not ours or of another version.
        """
        _, tensors, metadata = read_tensors(path, {"trajectory": [FORMAT_VERSION]})
        try:
            sigma, drift, diffusion = (tensors.pop(f"schedule.{name}") for name in ("sigma", "drift", "diffusion"))
            # Recordings of version 0.1 lack these fields; all of them chose the elements again at every step.
            kept: dict[str, bool] = {name: metadata.get(name, False) for name in KEPT}
            schedule = Schedule(metadata["sampler"], sigma, drift, diffusion, **kept)
            tensors["atomic_numbers"] = tensors["atomic_numbers"].long()
            return cls(**tensors, seed=metadata["seed"], schedule=schedule)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: lacks a part of a trajectory ({error}); record it again") from error

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file, atomically. Raises LabError if it cannot be written."""
        names = ("steps", "sigmas", "frac_coords", "atomic_numbers", "lattice", "score", "z", "numbers")
        tensors = {name: getattr(self, name) for name in names}
        tensors["atomic_numbers"] = tensors["atomic_numbers"].to(torch.uint8)
        for name in ("sigma", "drift", "diffusion"):
            tensors[f"schedule.{name}"] = getattr(self.schedule, name)
        metadata = {"seed": self.seed, "sampler": self.schedule.name}
        metadata |= {name: getattr(self.schedule, name) for name in KEPT}
        return write_tensors(path, "trajectory", FORMAT_VERSION, tensors, metadata)

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, which: int) -> DenoisingFrame: ...
    @overload
    def __getitem__(self, which: slice) -> Trajectory: ...

    def __getitem__(self, which: int | slice) -> DenoisingFrame | Trajectory:
        """Return one frame, ready for `denoise(model, frame=...)`, or for a slice a Trajectory of some frames."""
        if isinstance(which, slice):
            chosen = range(len(self))[which]
            if not chosen:
                raise SettingError(f"frames {which.start}:{which.stop}:{which.step} of {len(self)} are empty")
            return Trajectory.of(self[i] for i in chosen)
        if not -len(self) <= which < len(self):
            raise IndexError(f"frame {which} of a trajectory of {len(self)}")
        return DenoisingFrame(
            int(self.steps[which]),
            float(self.sigmas[which]),
            Crystals(self.frac_coords[which], self.atomic_numbers[which], self.lattice),
            self.score[which],
            self.z,
            self.numbers,
            self.seed,
            self.schedule,
        )

    def __iter__(self) -> Iterator[DenoisingFrame]:
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str) -> Trajectory:
        """Copy the trajectory to another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **tensors)

    def crystal(self, which: int = 0) -> Crystals:
        """Return one crystal in every frame as a batch, for example for an animation.

        Args:
            which: number of the crystal in the batch.
        """
        lattice = self.lattice[which].expand(len(self), 3, 3)
        return Crystals(self.frac_coords[:, which], self.atomic_numbers[:, which], lattice)

    def write_extxyz(self, path: str | Path, which: int = 0) -> Path:
        """Write one crystal's frames to one extended XYZ file, with step, noise level (Å) and score (1/Å).

        Raises:
            CrystalError: if a frame cannot be exported.
            LabError: if the file cannot be written.
        """
        from ase.io import write

        frames = convert.to_ase(self.crystal(which))
        for atoms, step, sigma, score in zip(frames, self.steps, self.sigmas, self.score[:, which], strict=True):
            atoms.info |= {"step": int(step), "sigma": float(sigma)}
            atoms.arrays["score"] = score[: len(atoms)].numpy()
        text = io.StringIO()
        write(text, frames, format="extxyz")
        with atomic_path(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
        return Path(path)

    def write_cif(self, folder: str | Path, which: int = 0) -> list[Path]:
        """Write one crystal's frames as `step_0000.cif` and so on; errors are those of `writing.write`."""
        names = [f"step_{int(step):04d}" for step in self.steps]
        return self.crystal(which).write_cif(folder, names)


def _same_run(a: DenoisingFrame, b: DenoisingFrame) -> bool:
    return (
        a.seed == b.seed
        and all(getattr(a.schedule, name) == getattr(b.schedule, name) for name in ("name", *KEPT))
        and torch.equal(a.schedule.sigma, b.schedule.sigma)
        and torch.equal(a.numbers.cpu(), b.numbers.cpu())
        and torch.equal(a.z.cpu(), b.z.cpu())
    )


def record(
    frames: Iterable[DenoisingFrame],
    into: str | Path,
    *,
    thin: int = 1,
    after: Trajectory | None = None,
    interval: float | int = 5.0,
) -> Iterator[DenoisingFrame]:
    """Pass frames on unchanged and write them to a trajectory file as they come.

    The file is complete at any time: it is replaced as a whole every `interval` seconds (more rarely, once that takes
    long), at the end, and when the loop is left early. What it holds always ends with the newest frame there was,
    so that `denoise(model, frame=Trajectory.load(path)[-1])` resumes from it.

    Args:
        frames: of one run of `denoise`.
        into: the file, best named .safetensors.
        thin: keep only every n-th step, beside the first and the newest.
        after: an earlier recording of the same run, which is being resumed; the file then holds both.
        interval: seconds.

    Raises:
        SettingError: if thin is less than 1, or frames of another run come.
        LabError: if the file cannot be written.

    Examples:
        >>> import cdvae_lab as lab
        >>> frame = lab.last(lab.record(lab.denoise("perov_5", n=1, steps=10), "run.safetensors"))
        >>> len(lab.Trajectory.load("run.safetensors"))
        11
    """
    if thin < 1 or interval < 0:
        raise SettingError(f"record: thin is {thin} and interval {interval}; give thin >= 1 and interval >= 0 seconds")
    return _record(frames, Path(into), thin, after, interval)


def _record(
    frames: Iterable[DenoisingFrame], path: Path, thin: int, after: Trajectory | None, interval: float | int
) -> Iterator[DenoisingFrame]:
    kept: list[DenoisingFrame] = []
    newest = None
    due = time.monotonic() + interval
    try:
        for frame in frames:
            newest = frame
            if (not kept and after is None) or frame.step % thin == 0:
                kept.append(frame)
            if time.monotonic() >= due:
                started = time.monotonic()
                _write(path, kept, newest, after)
                now = time.monotonic()
                due = now + max(interval, (now - started) / WRITING_SHARE)
            yield frame
    finally:
        # Also when the consumer stops or is interrupted: the loop's end closes the generator here.
        if newest is not None:
            _write(path, kept, newest, after)


def _write(path: Path, kept: Sequence[DenoisingFrame], newest: DenoisingFrame, after: Trajectory | None) -> None:
    frames = kept if kept and kept[-1] is newest else [*kept, newest]
    Trajectory.of(frames, after).save(path)
