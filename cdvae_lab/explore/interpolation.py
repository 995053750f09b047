"""From one crystal to another through the latent space: `latent_path` lays the stops, `interpolate` decodes them.

All stops are one batch and have the same noise, so that neighbors differ only by their latents. The first and the last
stop are reconstructions of the two ends: how good they are says how much to believe of what lies between
(`metrics.reconstruction` compares the last frame's first and last crystal with `LatentPath.ends`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE, read_for
from cdvae_lab.sampling.denoising import DenoisingFrame, Schedule, choose_schedule, denoise, start

PATHS = ("straight", "spherical")
ENDS = ("a", "b")


@dataclass(frozen=True)
class LatentPath:
    """Latents from one crystal's to another's.

    Attributes:
        z: of the stops, both ends included.
        weights: how far along each stop is, from 0 at a to 1 at b.
        ends: the two crystals, a and b, as the model read them.
        shape: "straight" or "spherical".
    """

    z: Float[Tensor, "stops latent"]
    weights: Float[Tensor, " stops"]
    ends: Crystals
    shape: str

    def __len__(self) -> int:
        return len(self.weights)


def straight(
    a: Float[Tensor, " latent"], b: Float[Tensor, " latent"], weights: Float[Tensor, " stops"]
) -> Float[Tensor, "stops latent"]:
    """(1 - w) a + w b."""
    return torch.lerp(a, b, weights[:, None])


def spherical(
    a: Float[Tensor, " latent"], b: Float[Tensor, " latent"], weights: Float[Tensor, " stops"]
) -> Float[Tensor, "stops latent"]:
    """The direction turns evenly on the great circle from a to b (Shoemake 1985), the length goes straight.

    Samples of N(0, I) in many dimensions all have nearly the same length, which a straight path leaves and this one
    keeps; for latents that are not spread so there is no reason to prefer it.

    Raises:
        SettingError: if a or b is zero, or they point in opposite directions: then no great circle is the shortest.
    """
    length_a, length_b = a.norm(), b.norm()
    if not (float(length_a) > 0 and float(length_b) > 0):
        raise SettingError("a spherical path needs latents that are not zero; take path='straight'")
    # Half the angle from the chords: exact for nearly equal and for nearly opposite directions alike.
    u, v = a / length_a, b / length_b
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if float(torch.pi - angle) < 1e-4:
        raise SettingError("a spherical path needs latents that are not opposite each other; take path='straight'")
    w = weights[:, None]
    if float(angle) < 1e-4:  # the chord is the arc
        direction = torch.nn.functional.normalize(torch.lerp(u, v, w), dim=-1)
    else:
        direction = (torch.sin((1 - w) * angle) * u + torch.sin(w * angle) * v) / torch.sin(angle)
    return torch.lerp(length_a, length_b, w) * direction


def latent_path(model: CDVAE, a: Any, b: Any, n: int = 9, path: str = "straight") -> LatentPath:
    """Evenly spaced latents from the posterior mean of crystal a to that of crystal b.

    Args:
        a, b: one crystal each: a file, a pymatgen Structure, ASE Atoms or Crystals.
        n: number of stops, with both ends.
        path: "straight", or "spherical", which presumes that the latents are spread like N(0, I).

    Raises:
        CrystalError: naming the end, if it cannot be read, is not one crystal, or is none that the model takes.
        SettingError: for n or path out of range.
    """
    if n < 2:
        raise SettingError(f"n, the number of stops with both ends, must be at least 2, not {n}")
    if path not in PATHS:
        raise SettingError(f"path must be one of {', '.join(PATHS)}, not {path!r}")
    ends = Crystals.cat([_read_end(model, source, name) for source, name in ((a, "a"), (b, "b"))])
    with torch.no_grad():
        z = model.encode(ends).mu
    weights = torch.linspace(0, 1, n, dtype=torch.float64, device=z.device)
    curve = {"straight": straight, "spherical": spherical}[path]
    stops = curve(z[0].double(), z[1].double(), weights).to(z.dtype)
    # The ends themselves, whatever was rounded.
    stops = torch.cat([z[:1], stops[1:-1], z[1:]])
    return LatentPath(stops, weights.to(z.dtype), ends, path)


def _read_end(model: CDVAE, source: Any, name: str) -> Crystals:
    try:
        crystals = read_for(model, source)
    except CrystalError as error:
        raise CrystalError(f"end {name}: {error}") from error
    if len(crystals) != 1:
        raise CrystalError(f"end {name}: holds {len(crystals)} crystals, but a path needs one at each end; choose one")
    return crystals


def interpolate(
    model: CDVAE,
    a: Any,
    b: Any,
    n: int = 9,
    *,
    path: str = "straight",
    keep_composition: str | None = None,
    keep_num_atoms: str | None = None,
    seed: int = 0,
    sampler: str | Schedule = "ancestral",
    compile: bool = False,
    **settings: Any,
) -> Iterator[DenoisingFrame]:
    """Decode the latent path between two crystals; yields frames like `denoise`, one crystal for every stop.

    The frames are those of one run with the latents of `latent_path(model, a, b, n, path)`, so any of them goes on with
    `denoise(model, frame=frame)` and is recorded like any other. What the model makes between crystals of different
    composition or size jumps where a number of atoms or an element does; `keep_composition` and `keep_num_atoms`
    hold either at what one end has.

    Args:
        a, b, n, path: of `latent_path`.
        keep_composition: "a" or "b": every stop has the atoms of that end, at places of its own.
        keep_num_atoms: "a" or "b": every stop has as many atoms as that end.
        seed: of the noise, which all stops share.
        sampler, compile, settings: of `denoise`.

    Raises:
        CrystalError: naming the end, for a crystal that the model cannot take; a cell that is too large for it comes
            with the size of its primitive cell.
        SettingError: for anything out of range, before any work.
    """
    _check_kept(keep_composition, keep_num_atoms)
    noise.check_seed(seed)
    schedule = choose_schedule(model, sampler, **settings)
    stops = latent_path(model, a, b, n, path)
    return decode_path(
        model,
        stops,
        keep_composition=keep_composition,
        keep_num_atoms=keep_num_atoms,
        seed=seed,
        sampler=schedule,
        compile=compile,
    )


def decode_path(
    model: CDVAE,
    stops: LatentPath,
    *,
    keep_composition: str | None = None,
    keep_num_atoms: str | None = None,
    seed: int = 0,
    sampler: str | Schedule = "ancestral",
    compile: bool = False,
    **settings: Any,
) -> Iterator[DenoisingFrame]:
    """Decode a path that is there already; arguments and errors as of `interpolate`."""
    _check_kept(keep_composition, keep_num_atoms)
    noise.check_seed(seed)
    schedule = choose_schedule(model, sampler, **settings)
    if stops.z.shape[1] != model.config.latent_dim:
        raise SettingError(
            f"the path has latents of {stops.z.shape[1]} numbers and the model {model.config.latent_dim}: it is "
            "another model's; lay it with the one that decodes it"
        )
    num_atoms = atomic_numbers = None
    if keep_num_atoms is not None:
        num_atoms = stops.ends.num_atoms[ENDS.index(keep_num_atoms)].expand(len(stops))
    if keep_composition is not None:
        kept = stops.ends[ENDS.index(keep_composition)]
        if num_atoms is not None and int(kept.num_atoms) != int(num_atoms[0]):
            raise SettingError(
                f"the composition of {keep_composition} has {int(kept.num_atoms)} atoms and {keep_num_atoms} has "
                f"{int(num_atoms[0])}: both cannot be kept; a kept composition keeps its own number of atoms"
            )
        atomic_numbers = kept.trim().atomic_numbers.expand(len(stops), -1)
        schedule = replace(schedule, keep_types=True)
    same_number = torch.zeros(len(stops), dtype=torch.int64, device=stops.z.device)
    first = start(model, stops.z, same_number, seed, schedule, num_atoms=num_atoms, atomic_numbers=atomic_numbers)
    return itertools.chain([first], denoise(model, frame=first, compile=compile))


def _check_kept(*kept: str | None) -> None:
    for end in kept:
        if end is not None and end not in ENDS:
            raise SettingError(f"keep_composition and keep_num_atoms name an end, 'a' or 'b', not {end!r}")
