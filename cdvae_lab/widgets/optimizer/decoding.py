"""The crystals of the steps of a search, the values that are predicted for them, and the code that gives the same."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.io import convert
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.optimizer import verdict
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Predictor, Search
from cdvae_lab.widgets.optimizer.state import OptimizerState


class Decoder:
    """Decodes steps of a search with the settings of a state, and writes the code that does the same.

    Args:
        model: of the search.
        predictor: independent of the model; None without one.
        state: with the seed of the decoder's noise, its number of steps, and the crystal that is shown.
        unit: of the property.

    Attributes:
        predictor: as given; it can be replaced.
    """

    def __init__(self, model: CDVAE, predictor: Predictor | None, state: OptimizerState, unit: str) -> None:
        self._model, self._state, self._unit = model, state, unit
        self.predictor = predictor

    def decode(self, step: LatentStep, search: Search) -> Iterator[LatentStep]:
        """Decode a step, and add its crystals to its search; for a worker thread.

        Yields the step at every step of the decoder, so that it can be stopped.

        Raises:
            SettingError: if the predictor does not give one value for each crystal.
        """
        state = self._state
        for one in decode_step(self._model, step, self.predictor, state.seed, state.decode_steps):
            if one is not None:
                verdict.paint(one, state.crystal, self._unit)
                search.add(one)
            yield step

    def replay_code(self, search: Search) -> ReplayCode:
        """The code that gives the `steps` of a search, and `decoded`: the crystals by the number of their step."""
        if not search.decoded:
            return search.replay_code
        wanted = sorted({one.step for one in search.decoded})
        call = f"lab.last({self._call('s.z')}).crystals"
        return search.replay_code.then(f"decoded = {{s.step: {call} for s in steps if s.step in {wanted}}}")

    def pick(self, search: Search, index: int, crystal: int) -> Pick:
        """One of the crystals of a kept step, or of the last one before it that is decoded, for all views.

        Raises:
            SettingError: if nothing is decoded yet.
        """
        place = search.at(index)
        if place is None:
            raise SettingError("nothing is decoded yet; press Run, or decode this step")
        one, k = search.decoded[place], crystal
        index = search.index(one.step)
        expression = f"lab.last({self._call(f'steps[{index}].z')}).crystals[{k}]"
        code = search.replay_code.then(f"crystal, z = {expression}, steps[{index}].z[{k}:{k + 1}]")
        return Pick(verdict.pick_name(one, k), one.crystals[k], search.steps[index].z[k][None], expression, code)

    def _call(self, z: str) -> str:
        return f"lab.denoise(model, z={z}, seed={self._state.seed}, steps={self._state.decode_steps})"


def decode_step(
    model: CDVAE, step: LatentStep, predictor: Predictor | None, seed: int, steps: int
) -> Iterator[Decoded | None]:
    """Decode a step, and predict the property of its crystals.

    Yields None at every step of the decoder, so that it can be stopped, and the result in the end.

    Args:
        predictor: independent of the model; None without one.
        seed: of the decoder's noise.
        steps: of the decoder.

    Raises:
        SettingError: if the predictor does not give one value for each crystal.
    """
    frame = None
    for frame in denoise(model, z=step.z, seed=seed, steps=steps):  # noqa: B007
        yield None
    assert frame is not None
    crystals = frame.crystals
    # Far outside the data a cell can come out flat: then nothing can be predicted.
    usable = convert.is_usable(crystals)
    own = torch.full((len(crystals),), torch.nan)
    independent = None if predictor is None else own.clone()
    if bool(usable.any()):
        with torch.no_grad():
            own[usable.cpu()] = model.predict_property(model.encode(crystals[usable]).mu).cpu().float()
        if independent is not None and predictor is not None:
            independent[usable.cpu()] = _predicted(predictor, crystals[usable])
    yield None
    yield Decoded(step.step, crystals.to("cpu"), own, independent, step.log_prob.cpu())


def _predicted(predictor: Predictor, crystals: Crystals) -> Tensor:
    values = torch.as_tensor(predictor(crystals)).detach().cpu().float()
    if values.shape != (len(crystals),):
        raise SettingError(
            f"predictor: returned {tuple(values.shape)} for {len(crystals)} crystals; it must give one value for each"
        )
    return values
