"""The code that decodes a path again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.explore.interpolation import PATHS, LatentPath
from cdvae_lab.widgets.base.replay_code import ReplayCode, Sampler, Segments, arguments
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.interpolation.path_end import PathEnd
from cdvae_lab.widgets.interpolation.state import KEEP, InterpolationState


@dataclass(frozen=True)
class PathCode:
    """How one run of a view is written in Python.

    Attributes:
        setup: what has to run before.
        call: the expression for its frames; empty before the first run.
        latents: an expression for the latents of the path.
    """

    setup: ReplayCode = field(default_factory=ReplayCode)
    call: str = ""
    latents: str = ""

    @classmethod
    def of(cls, model_code: str, ends: Iterable[PathEnd], state: InterpolationState, sampler: Sampler) -> PathCode:
        """Write a run that begins now.

        Args:
            model_code: the statement that makes the model.
            ends: a and b.
            state: with the settings.
            sampler: of the decoder.
        """
        ends = list(ends)
        given = ", ".join(end.code for end in ends)
        shape = {} if state.path == PATHS[0] else {"path": state.path}
        options = f", n={state.n}, seed={state.seed}{arguments(shape | KEEP[state.keep])}{sampler.arguments}"
        before = tuple(end.replay for end in ends if end.replay != ReplayCode())
        return cls(
            ReplayCode(setup={"model": model_code, **sampler.setup}, before=before),
            f"lab.interpolate(model, {given}{options})",
            f"lab.latent_path(model, {given}, n={state.n}{arguments(shape)}).z",
        )

    def replay(self, segments: Segments, whole: bool) -> ReplayCode:
        """The code that gives `crystals`.

        Args:
            segments: of the recording.
            whole: the run has not been stopped.
        """
        if not self.call:
            return self.setup
        if len(segments.parts) == 1 and whole:
            return self.setup.then(f"crystals = lab.last({self.call}).crystals")
        replay = segments.replay()
        return self.setup.then(*replay.body, "crystals = frames[-1].crystals", imports=replay.imports)

    def pick(self, path: LatentPath, crystals: Crystals, k: int, replay: ReplayCode) -> Pick:
        """One of the stops for all views.

        Args:
            path: of the stops.
            crystals: of all stops.
            k: number of the stop.
            replay: the code that gives `crystals`.
        """
        name = f"{reduced_formulas(crystals)[k]} (stop {k} of {len(crystals) - 1})"
        code = replay.then(f"crystal, z = crystals[{k}].trim(), {self.latents}[{k}:{k + 1}]")
        # An expression alone does not do if something has to run before it.
        expression = "" if self.setup.before or self.setup.body else f"lab.last({self.call}).crystals[{k}]"
        return Pick(name, crystals[k].trim().to("cpu"), path.z[[k]].cpu(), expression, code)
