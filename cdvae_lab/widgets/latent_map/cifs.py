"""Crystals of a map written as CIFs: the data's own, or those that the model decodes from their latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.parts.originals import Originals
from cdvae_lab.widgets.parts.writing import Writing

DECODED_AT_ONCE = 16


def write_cifs(
    map: LatentMap,
    rows: Sequence[int],
    folder: Path,
    originals: Originals,
    decode: Callable[[list[int]], Iterator[DenoisingFrame]],
) -> Iterator[Writing]:
    """Write some crystals of a map as CIFs; yields the progress at every step of the decoder.

    Args:
        rows: their numbers on the map.
        folder: created if necessary.
        originals: crystals of the public data file, if it is on this machine.
        decode: gives the frames of decoding the crystals of these numbers.
    """
    files: tuple[Path, ...] = ()
    for first in range(0, len(rows), DECODED_AT_ONCE):
        part = rows[first : first + DECODED_AT_ONCE]
        found = {i: one for i in part if (one := originals.get(i)) is not None}
        missing = [i for i in part if i not in found]
        if missing:
            made: list[Crystals] = []
            for frame in decode(missing):
                made = [frame.crystals]
                yield Writing(len(files), len(rows), files)  # so that Stop lands between two steps
            found |= {i: made[0][n].trim() for n, i in enumerate(missing)}
        for i in part:
            kind = "_decoded" if i in missing else ""
            files += tuple(found[i].write_cif(folder, [f"{map.formulas[i]}_{map.ids[i]}{kind}"]))
        yield Writing(len(files), len(rows), files)


def cifs_code(rows: Sequence[int], folder: Path, sampler: str) -> list[str]:
    """Lines of Python that decode and write the crystals of these numbers.

    Args:
        sampler: arguments of `denoise`.
    """
    return [
        f"for first in range(0, {len(rows)}, {DECODED_AT_ONCE}):",
        f"    part = rows[first : first + {DECODED_AT_ONCE}]",
        f"    crystals = lab.last(lab.denoise(model, z=known.latents[part].float(){sampler})).crystals",
        f"    crystals.write_cif({str(folder)!r}, [f'{{known.formulas[i]}}_{{known.ids[i]}}_decoded' for i in part])",
    ]
