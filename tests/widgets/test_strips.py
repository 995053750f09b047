"""The strips below the player."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.widgets.parts.strips import Course


class TestCourse:
    def test_against_the_frames_themselves(self) -> None:
        frames = list(lab.denoise(lab.load("perov_5"), n=3, seed=1, sampler="ancestral", types="argmax", steps=30))
        whole = Course.of(frames)
        parts = Course.of(frames[:7]).then(Course.of(frames[7:], frames[6]))
        for k in (0, 6, 7, 30):
            for c, structure in enumerate(frames[k].crystals.to_structures()):
                distances = structure.distance_matrix + 1e9 * np.eye(len(structure))
                assert float(whole.distance[k, c]) == pytest.approx(distances.min(), abs=1e-4)
        changed = (frames[7].crystals.atomic_numbers != frames[6].crystals.atomic_numbers).sum(1)
        assert torch.equal(parts.changed[7], changed)
        assert torch.equal(parts.valid, whole.valid)
        assert torch.equal(parts.changed, whole.changed)
        assert int(whole.changed.sum()) > 0
