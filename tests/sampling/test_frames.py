"""Frames of all generators: shown briefly, selected by crystal, resumed only with their own settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.errors import SettingError
from cdvae_lab.sampling.frames import Frame, refuse_contradictions
from cdvae_lab.sampling.schedules import Schedule


@pytest.fixture(scope="module")
def frames() -> dict[str, Any]:
    """A frame of each generator, of three crystals."""
    model = lab.load("perov_5")
    z = lab.latents_of(model, 3)
    return {
        "denoise": lab.last(lab.denoise(model, z=z, steps=3)),
        "decode": lab.last(lab.decode(model, z, max_attempts=1, steps=3)),
        "optimize": lab.last(lab.optimize(model, z, steps=3)),
        "optimize_guided": lab.last(lab.optimize_guided(model, z, rounds=1, steps_per_round=3)),
    }


SHOWN = {
    "denoise": "<DenoisingFrame: step 3 of 3, 3 crystals, sigma 0.01 Å>",
    "decode": "<Decoded: step 3 of 3, 3 crystals>",
    "optimize": "<LatentStep: step 3 of 3, 3 crystals>",
    "optimize_guided": "<GuidedStep: step 3 of 3, 3 crystals>",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_frame_shows_itself_in_one_line_and_its_crystals_as_a_picture(frames: dict[str, Any], name: str) -> None:
    frame = frames[name]
    assert repr(frame) == SHOWN[name]
    shown = frame._repr_mimebundle_()
    assert shown["text/plain"] == SHOWN[name]
    assert ("image/png" in shown) == hasattr(frame, "crystals")
    if "image/png" in shown:
        assert shown["image/png"].startswith(b"\x89PNG")


def test_crystals_that_cannot_be_drawn_leave_the_line_of_text(frames: dict[str, Any]) -> None:
    frame = frames["denoise"]
    broken = frame.crystals.replace(frac_coords=frame.crystals.frac_coords * torch.nan)
    assert list(dataclasses.replace(frame, crystals=broken)._repr_mimebundle_()) == ["text/plain"]


@pytest.mark.parametrize("name", SHOWN)
def test_frames_are_frozen_compare_by_identity_and_carry_the_numbers_of_their_crystals(
    frames: dict[str, Any], name: str
) -> None:
    frame = frames[name]
    assert isinstance(frame, Frame)
    assert frame.finished
    assert frame.numbers.tolist() == [0, 1, 2]
    assert frame == frame
    assert frame != dataclasses.replace(frame)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.z = frame.z
    some = frame.select([2, 0])
    assert some.numbers.tolist() == [2, 0]
    assert torch.equal(some.z, frame.z[[2, 0]])


def test_equal_settings_and_none_are_no_contradiction() -> None:
    carried = {"seed": 3, "z": torch.ones(2, 2), "prior": None}
    refuse_contradictions("frame", carried, {})
    refuse_contradictions("frame", carried, {"seed": 3, "z": torch.ones(2, 2).double(), "prior": None})
    with pytest.raises(
        SettingError, match=r"frame carries .* differ: seed \(3 there, 4 here\), z \(a tensor \(2, 2\) there"
    ):
        refuse_contradictions("frame", carried, {"seed": 4, "z": torch.zeros(2, 2)})


def test_schedules_are_equal_by_their_coefficients() -> None:
    config = lab.load("perov_5").config
    one = Schedule.ancestral(config, 20)
    assert one == Schedule.ancestral(config, 20)
    assert one != Schedule.ancestral(config, 21)
    assert one != dataclasses.replace(one, keep_types=True)
    assert str(one) == "ancestral (20 steps from 10 to 0.01 Å)"


def test_a_name_is_taken_wherever_a_model_is() -> None:
    model = lab.load("perov_5")
    z = lab.latents_of(model, 2)
    assert torch.equal(lab.latents_of("perov_5", 2), z)
    for make in (
        lambda m: lab.generate(m, 2, steps=2).frac_coords,
        lambda m: lab.last(lab.decode(m, z, max_attempts=1, steps=2)).crystals.frac_coords,
        lambda m: lab.last(lab.optimize(m, z, steps=2)).z,
        lambda m: lab.last(lab.optimize_guided(m, z, rounds=1, steps_per_round=2)).z,
        lambda m: lab.last(lab.interpolate(m, *[lab.asset_path("examples/SrTiO3.cif")] * 2, n=2, steps=2)).z,
    ):
        assert torch.equal(make("perov_5"), make(model))
