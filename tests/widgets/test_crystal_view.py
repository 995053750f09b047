"""The 3D view of crystals without a browser: what is sent to it."""

from __future__ import annotations

import base64
import json
import threading

import numpy as np
import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.errors import SettingError
from cdvae_lab.render import FrameOrigin
from cdvae_lab.widgets import CrystalView
from cdvae_lab.widgets.parts.crystal_frames import CrystalFrames


class TestCrystalView:
    def test_the_message_holds_the_crystals(
        self, known_crystals: lab.Crystals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        view = CrystalView()
        monkeypatch.setattr(view.stage, "run", sent.append)
        view.show(known_crystals)
        call = sent[-1]
        scene, frames = json.loads("[" + call[call.index("begin(") + 6 : call.rindex("); }")] + "]")
        numbers = np.frombuffer(base64.b64decode(frames[0]["z"]), "u1").reshape(frames[0]["shape"])
        assert numbers[0].tolist() == [[38, 22, 8, 8, 8], [11, 17, 0, 0, 0], [6, 6, 0, 0, 0]]
        assert scene["cells"][0][:4] == [3.905, 0, 0, 0]
        elements = json.loads(call[call.index("lab.elements, {") + 14 : call.index("}); lab.begin") + 1])
        assert {row[4] for row in elements.values()} == {"Sr", "Ti", "O", "Na", "Cl", "C"}

    def test_no_threads(self) -> None:
        before = threading.active_count()
        views = [CrystalView() for _ in range(5)]
        assert threading.active_count() == before
        for view in views:
            view.close()

    def test_height_out_of_range(self) -> None:
        with pytest.raises(SettingError, match="height"):
            CrystalView(height=20)


class TestCrystalFrames:
    def test_frames_are_sent_once_and_the_origin_never_jumps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[str] = []
        view = CrystalView()
        monkeypatch.setattr(view.stage, "run", sent.append)
        frames = list(lab.denoise(lab.load("perov_5"), n=2, seed=3, steps=60))
        shown = CrystalFrames(view)
        shown.restart()
        for first in range(0, 61, 9):
            shown.add(frames[first : first + 9])
        assert view.index == 60
        assert len([call for call in sent if "lab.begin(" in call]) == 1
        assert len(view.frames) == len(shown) == 61
        drawn = [shown.crystals(k) for k in range(61)]
        for frame, origin, crystals in zip(frames, FrameOrigin.along(frames), drawn, strict=True):
            assert torch.equal(origin.move(frame.crystals).frac_coords, crystals.frac_coords)
        last = drawn[-1].frac_coords
        assert all((last[k] == 0).all(-1).any() for k in range(2))  # an atom has come to the origin
        shown.restart(keep=10)
        assert len(view.frames) == len(shown) == 10
        assert view.index == 9
        view.close()
