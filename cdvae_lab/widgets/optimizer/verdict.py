"""Text and pictures of a search: the property predicted for a step, and for the crystals that it decodes to."""

from __future__ import annotations

import html

from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Search
from cdvae_lab.widgets.parts.filmstrip import film_picture

_NO_CELL = "no possible cell"


def paint(one: Decoded, crystal: int, unit: str) -> None:
    """Add the picture of one crystal to a decoding, for the filmstrip.

    Args:
        unit: of the property.
    """
    value = one.own if one.independent is None else one.independent
    worth = _NO_CELL if bool(value[crystal].isnan()) else f"{float(value[crystal]):.2f} {unit}".strip()
    lines = [f"step {one.step}", captions.formula(one.crystals[crystal]), worth]
    one.pictures[crystal] = film_picture(one.crystals[crystal], lines)


def caption(search: Search, place: int, crystal: int, unit: str) -> str:
    """Text above the first decoding and the one that is shown, as HTML."""
    first, one = search.decoded[0], search.decoded[place]
    return (
        "<div style='display:flex;justify-content:center;gap:24px;text-align:center;line-height:1.4'>"
        f"<div>decoded at step {first.step}<br>{_predictions(search, first, crystal, unit)}</div>"
        f"<div>decoded at step {one.step}<br>{_predictions(search, one, crystal, unit)}</div></div>"
    )


def position(search: Search, index: int, crystal: int, unit: str) -> str:
    """Text beside the slider, as HTML: the prediction for a step, |z|, and log p(z) where it is known."""
    step, place = search.steps[index], search.at(index)
    text = (
        f"{step.step} of {step.num_steps}: predicted {float(step.prediction[crystal]):.3f} {unit}, "
        f"|z| {float(step.z[crystal].norm()):.1f}"
    )
    if place is not None:
        one = search.decoded[place]
        where = "" if one.step == step.step else f" at step {one.step}"
        text += f", log p(z) {float(one.log_prob[crystal]):.0f} nats{where}"
    return html.escape(text)


def progress(search: Search, status: RunStatus) -> str:
    """Text of the status line: how far a search has come."""
    if not search.steps:
        return "starting" if status.running else "press Run (or Space)"
    last = search.steps[-1]
    state = status.state if status.running else "finished" if last.finished else "stopped"
    return f"{state}: step {last.step} of {last.num_steps}, decodings: {len(search.decoded)}"


def kept(search: Search) -> str:
    """Sentence on what an error leaves; empty if that is nothing."""
    if not search.steps:
        return ""
    return f"The {len(search.steps)} steps and {len(search.decoded)} decodings so far are kept."


def pick_name(one: Decoded, crystal: int) -> str:
    """Name of a crystal of a search, for people."""
    return f"{captions.formula(one.crystals[crystal])}, step {one.step} of a search"


def _predictions(search: Search, one: Decoded, crystal: int, unit: str) -> str:
    step = search.steps[search.index(one.step)]
    predictions = [
        f"predicted for z {float(step.prediction[crystal]):.2f}",
        _NO_CELL if bool(one.own[crystal].isnan()) else f"same model, this crystal {float(one.own[crystal]):.2f}",
    ]
    if one.independent is not None:
        predictions.append(f"independent predictor {float(one.independent[crystal]):.2f}")
    text = html.escape(f"{'; '.join(predictions)} {unit}")
    return f"<b>{html.escape(captions.formula(one.crystals[crystal]))}</b> &nbsp; {text}"
