"""The attribute of a fused optimizer that `training.run` depends on, which torch does not document."""

from __future__ import annotations

import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("device", DEVICES)
def test_a_fused_adam_skips_its_step_where_found_inf_is_set(device: str) -> None:
    """A torch version that ignores the attribute fails here; training would then keep weights that are not finite."""
    parameter = torch.ones(3, device=device, requires_grad=True)
    optimizer = torch.optim.Adam(
        [parameter], lr=torch.tensor(0.1, device=device), fused=True, capturable=device == "cuda"
    )
    parameter.grad = torch.ones_like(parameter)
    optimizer.found_inf = torch.zeros((), device=device)
    optimizer.step()
    after = parameter.detach().clone()
    assert (after < 1).all()
    state = {name: value.clone() for name, value in optimizer.state[parameter].items()}
    for gradient in (1.0, torch.nan, torch.inf):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.found_inf = torch.ones((), device=device)
        optimizer.step()
        assert torch.equal(parameter, after)
        assert all(torch.equal(value, state[name]) for name, value in optimizer.state[parameter].items())
