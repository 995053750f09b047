"""Interpolation through latent space: `latent_path` lays points between two crystals, `interpolate` decodes them.

All points of a path are one batch and share their noise, so that neighbors differ by their latents alone. The first and
the last point are reconstructions of the two ends: their quality shows how far to trust the points between
(`metrics.reconstruction` compares the last frame's first and last crystal with `LatentPath.ends`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.encodable import read_encodable
from cdvae_lab.models.latents import latents_of
from cdvae_lab.models.seeds import check_seed
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise, initial_frame
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import DEFAULT, SamplerSettings

PATHS = ("straight", "spherical")
ENDS = ("a", "b")


@dataclass(frozen=True, eq=False)
class LatentPath:
    """Latents on a path between those of two crystals.

    Attributes:
        z: of the points, both ends included.
        weights: position of each point on the path, from 0 at a to 1 at b.
        ends: the two crystals, a and b, as the model read them.
        shape: "straight" or "spherical".
    """

    z: Float[Tensor, "stops latent"]
    weights: Float[Tensor, " stops"]
    ends: Crystals
    shape: str

    @classmethod
    def between(cls, z: Float[Tensor, "2 latent"], ends: Crystals, n: int = 9, shape: str = "straight") -> LatentPath:
        """Lay evenly spaced latents between those of two crystals.

        Args:
            z: of a and b.
            ends: a and b.
            n: number of points, with both ends.
            shape: "straight", or "spherical", which assumes that the latents are distributed like N(0, I).

        Raises:
            SettingError: for n or shape out of range.
        """
        _check_points(n, shape)
        weights = torch.linspace(0, 1, n, dtype=torch.float64, device=z.device)
        curve = {"straight": straight, "spherical": spherical}[shape]
        stops = curve(z[0].double(), z[1].double(), weights).to(z.dtype)
        # The ends exactly, without the rounding of the curve.
        stops = torch.cat([z[:1], stops[1:-1], z[1:]])
        return cls(stops, weights.to(z.dtype), ends, shape)

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return f"<LatentPath: {len(self)} points, {self.shape}>"


def straight(
    a: Float[Tensor, " latent"], b: Float[Tensor, " latent"], weights: Float[Tensor, " stops"]
) -> Float[Tensor, "stops latent"]:
    """Linear interpolation, (1 - w) a + w b."""
    return torch.lerp(a, b, weights[:, None])


def spherical(
    a: Float[Tensor, " latent"], b: Float[Tensor, " latent"], weights: Float[Tensor, " stops"]
) -> Float[Tensor, "stops latent"]:
    """Spherical linear interpolation of the direction (Shoemake 1985), and linear interpolation of the length.

    Samples of N(0, I) in many dimensions all have nearly the same length, which a straight path leaves and this one
    keeps; for latents of another distribution there is no reason to prefer it.

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


def latent_path(model: ModelOrName, a: Any, b: Any, n: int = 9, path: str = "straight") -> LatentPath:
    """Lay evenly spaced latents from the posterior mean of crystal a to that of crystal b.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        a, b: one crystal each: a file, a pymatgen Structure, ASE Atoms or Crystals; all are Niggli-reduced first.
        n: number of points, with both ends.
        path: "straight", or "spherical", which assumes that the latents are distributed like N(0, I).

    Raises:
        CrystalError: naming the end, if it cannot be read, is not one crystal, or cannot be encoded by the model.
        SettingError: for n or path out of range.
    """
    model = as_model(model)
    _check_points(n, path)  # before the crystals are read
    ends = Crystals.cat([_read_end(model, source, name) for source, name in ((a, "a"), (b, "b"))])
    return LatentPath.between(latents_of(model, ends), ends, n, path)


def _check_points(n: int, shape: str) -> None:
    if n < 2:
        raise SettingError(f"n, the number of points with both ends, must be at least 2, not {n}")
    if shape not in PATHS:
        raise SettingError(f"path must be one of {', '.join(PATHS)}, not {shape!r}")


def _read_end(model: CDVAE, source: Any, name: str) -> Crystals:
    try:
        crystals = read_encodable(model, source)
    except CrystalError as error:
        raise CrystalError(f"end {name}: {error}") from error
    if len(crystals) != 1:
        raise CrystalError(f"end {name}: holds {len(crystals)} crystals, but a path needs one at each end; choose one")
    return crystals


class PathDecodingSettings(SamplerSettings, total=False):
    """Keyword arguments of `interpolate` and `decode_path`.

    Keys:
        keep_composition: "a" or "b": every point has the elements of that end; its positions are decoded.
        keep_num_atoms: "a" or "b": every point has as many atoms as that end.
        seed: of the noise, which all points share (0).
        sampler: and its settings, as in `denoise`.
        compile: as in `denoise`.
    """

    keep_composition: Literal["a", "b"] | None
    keep_num_atoms: Literal["a", "b"] | None
    seed: int
    sampler: str | Schedule
    compile: bool


def interpolate(
    model: ModelOrName,
    a: Any,
    b: Any,
    n: int = 9,
    *,
    path: str = "straight",
    **settings: Unpack[PathDecodingSettings],
) -> Iterator[DenoisingFrame]:
    """Decode the latent path between two crystals; yields frames like `denoise`, with one crystal for every point.

    The frames are those of one run with the latents of `latent_path(model, a, b, n, path)`, so that any of them can be
    resumed, `denoise(model, frame=frame)`, and recorded like any other. Between crystals of different composition or
    size the result jumps where a number of atoms or an element changes; `keep_composition` and `keep_num_atoms` hold
    either at the value of one end.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        a, b, n, path: as in `latent_path`.
        settings: `keep_composition`, `keep_num_atoms`, `seed`, `sampler` with its settings, and `compile`; see
            `PathDecodingSettings`.

    Raises:
        CrystalError: naming the end, for a crystal that the model cannot encode; for a cell that is too large with the
            size of its primitive cell.
        SettingError: for anything out of range, before any work.

    Examples:
        >>> import cdvae_lab as lab
        >>> model = lab.load("perov_5")
        >>> a, b = (lab.asset_path(f"examples/{name}.cif") for name in ("SrTiO3", "BaTiO3"))
        >>> frame = lab.last(lab.interpolate(model, a, b, n=3, steps=20))
        >>> len(frame.crystals)
        3
    """
    model = as_model(model)
    _check(model, settings)  # before the crystals are read
    return decode_path(model, latent_path(model, a, b, n, path), **settings)


def decode_path(
    model: ModelOrName, stops: LatentPath, **settings: Unpack[PathDecodingSettings]
) -> Iterator[DenoisingFrame]:
    """Decode a path that `latent_path` laid; yields frames like `denoise`, with one crystal for every point.

    Args:
        model: the model that laid the path, its name or its path.
        stops: the path.
        settings: as in `interpolate`.

    Raises:
        SettingError: for a path of another model, or settings that are out of range or contradict each other.
    """
    model = as_model(model)
    schedule = _check(model, settings)
    if stops.z.shape[1] != model.config.latent_dim:
        raise SettingError(
            f"the path has latents of {stops.z.shape[1]} dimensions and the model {model.config.latent_dim}: it is "
            "another model's; lay it with the one that decodes it"
        )
    keep_composition, keep_num_atoms = settings.get("keep_composition"), settings.get("keep_num_atoms")
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
    numbers = torch.zeros(len(stops), dtype=torch.int64, device=stops.z.device)  # one number: the same noise for all
    given = {"num_atoms": num_atoms, "atomic_numbers": atomic_numbers}
    first = initial_frame(model, stops.z, numbers, settings.get("seed", 0), schedule, **given)
    return itertools.chain([first], denoise(model, frame=first, compile=settings.get("compile", False)))


def _check(model: CDVAE, settings: PathDecodingSettings) -> Schedule:
    """Return the schedule, once all settings are checked."""
    given: dict[str, Any] = dict(settings)
    for end in (given.pop("keep_composition", None), given.pop("keep_num_atoms", None)):
        if end is not None and end not in ENDS:
            raise SettingError(f"keep_composition and keep_num_atoms name an end, 'a' or 'b', not {end!r}")
    check_seed(given.pop("seed", 0))
    given.pop("compile", None)
    return choose_schedule(model, given.pop("sampler", DEFAULT), **given)
