"""Model files: kinds, format versions, training states of every class, and fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from cdvae_lab import __version__
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError
from cdvae_lab.io import assets
from cdvae_lab.io.storage import read_tensors, write_tensors
from cdvae_lab.models import checkpoints
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import (
    FORMATS,
    as_model,
    fingerprint,
    load,
    load_composition_model,
    load_property_model,
    read_training_state,
)
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.training.loop import fit
from tests.small_model import SMALL


@pytest.fixture
def model(random_dataset: Dataset) -> CDVAE:
    return CDVAE.for_dataset(random_dataset, **SMALL).eval()


@pytest.mark.parametrize("name", [name for name in assets.names("*.safetensors") if "_map" not in name])
def test_bundled_models_are_of_a_readable_format(name: str) -> None:
    loaded = load_property_model(assets.asset_path(name)) if "property" in name else load(assets.asset_path(name))
    assert not loaded.training


@pytest.mark.parametrize(("name", "compositions"), [("perov_5", 0), ("carbon_24", 0), ("mp_20", 1), ("inorganic", 1)])
def test_bundled_models_draw_from_a_learned_prior(name: str, compositions: int) -> None:
    """Models of many compositions draw these first; without a prior `denoise` would warn (`PriorWarning`)."""
    prior = load(name).prior
    assert prior is not None
    assert (prior.composition_model is not None) == bool(compositions)


def test_a_file_records_the_package_version(model: CDVAE, tmp_path: Path) -> None:
    with safetensors.safe_open(model.save(tmp_path / "m.safetensors"), "pt") as file:
        assert file.metadata()["written_by"] == __version__


@pytest.mark.parametrize("kind", FORMATS)
def test_another_format_version_is_refused_with_the_version_that_wrote_it(kind: str, tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "new.safetensors", kind, 999, {}, {})
    with pytest.raises(CheckpointError, match=rf"{kind} format version 999, written by cdvae_lab {__version__}"):
        checkpoints.read_checkpoint(path, kind)


@pytest.mark.parametrize(
    ("metadata", "writer"), [({"model": {"version": "0.1.7"}}, "0.1.7"), ({}, "0.1"), ({"model": "text"}, "0.1")]
)
def test_an_older_file_without_the_version_in_its_header_is_refused_too(
    metadata: dict, writer: str, tmp_path: Path
) -> None:
    header = {"format": "cdvae_lab", "kind": "model", "version": "0", "metadata": json.dumps(metadata)}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "old.safetensors", header)
    with pytest.raises(CheckpointError, match=rf"version 0, written by cdvae_lab {writer}, .* reads version 1"):
        load(tmp_path / "old.safetensors")


def test_kinds_have_format_versions_of_their_own(
    model: CDVAE, random_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new format of training states leaves released models as they are, and the other way round."""
    state = tmp_path / "state.safetensors"
    for _ in fit(CDVAE.for_dataset(random_dataset, **SMALL), random_dataset, steps=1, checkpoint=state):
        pass
    path = model.save(tmp_path / "model.safetensors")
    monkeypatch.setitem(FORMATS, "training state", checkpoints.Format(2, (2,)))
    assert load(path).config == model.config
    with pytest.raises(CheckpointError, match="training state format version 1"):
        load(state)
    monkeypatch.setitem(FORMATS, "training state", checkpoints.Format(2, (1, 2)))
    assert load(state).config == model.config


def test_a_training_state_loads_as_a_model_of_its_own_class(random_dataset: Dataset, tmp_path: Path) -> None:
    made = {
        "property": PropertyModel.for_dataset(random_dataset, hidden_dim=8, blocks=1),
        "composition": CompositionModel.for_dataset(random_dataset, hidden_dim=8, blocks=1),
        "cdvae": CDVAE.for_dataset(random_dataset, **SMALL),
    }
    readers = {"property": load_property_model, "composition": load_composition_model, "cdvae": load}
    for name, untrained in made.items():
        path = tmp_path / f"{name}.safetensors"
        *_, step = fit(untrained, random_dataset, steps=2, checkpoint=path)
        averaged = step.averaged().state_dict()
        for reader, read in readers.items():
            if reader == name:
                assert all(torch.equal(averaged[key], value) for key, value in read(path).state_dict().items())
            else:
                with pytest.raises(CheckpointError, match=f"training state of a {type(untrained).__name__}"):
                    read(path)


def test_a_released_model_has_no_state_to_resume_from(random_dataset: Dataset, tmp_path: Path) -> None:
    property_model = PropertyModel.for_dataset(random_dataset, hidden_dim=8, blocks=1)
    with pytest.raises(CheckpointError, match=r"p\.safetensors: holds a property model without the state"):
        read_training_state(property_model.save(tmp_path / "p.safetensors"))


def test_a_model_may_be_given_by_name_or_path(model: CDVAE, tmp_path: Path) -> None:
    assert as_model(model) is model
    path = model.save(tmp_path / "m.safetensors")
    assert fingerprint(as_model(path)) == fingerprint(as_model(str(path))) == fingerprint(model)


def test_the_fingerprint_includes_the_prior_on_request(model: CDVAE, tmp_path: Path) -> None:
    bare, bare_with_prior = fingerprint(model), fingerprint(model, prior=True)
    assert bare == bare_with_prior  # there is no prior
    model.prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=8, blocks=1, steps=4))
    assert fingerprint(model) == bare
    first = fingerprint(model, prior=True)
    assert first != bare
    model.prior.mean += 1
    assert fingerprint(model) == bare
    assert fingerprint(model, prior=True) not in (bare, first)
    again = load(model.save(tmp_path / "m.safetensors"))
    assert fingerprint(again, prior=True) == fingerprint(model, prior=True)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "t.safetensors", "trajectory", 1, {}, {})
    with pytest.raises(CheckpointError, match="holds a trajectory, but a model or training state is needed"):
        load(path)
    assert read_tensors(path, {"trajectory": [1]})[0] == "trajectory"
