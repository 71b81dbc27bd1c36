"""One update against the same written out with torch's own parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paris.models.distributed import ALONE
from paris.models.optimiser import BETAS, EPSILON, Optimiser
from paris.models.precision import LossScale

CLIP, RATE, DECAY, WEIGHT_DECAY = 1.0, 0.01, 0.9, 0.1


def small() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 4)


def gradients(seed: int, norm: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(4, 5, generator=generator), torch.randn(4, generator=generator)]
    length = torch.sqrt(sum((part.square().sum() for part in drawn), torch.zeros(())))
    return [part * (norm / length) for part in drawn]


@pytest.mark.parametrize("norm", [0.01, 0.5, 3.0, 400.0])
def test_a_step_clips_decays_and_averages_as_torch_does_part_by_part(norm):
    ours, theirs = small(), small()
    optimiser = Optimiser(ours, WEIGHT_DECAY, ["average"], LossScale("fp32", torch.device("cpu")), ALONE)
    groups = [{"params": [theirs.weight], "weight_decay": WEIGHT_DECAY}, {"params": [theirs.bias], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON)
    average = [p.detach().clone() for p in theirs.parameters()]
    for step in range(4):
        for network in (ours, theirs):
            for parameter, gradient in zip(network.parameters(), gradients(step, norm * (step + 1)), strict=True):
                parameter.grad = gradient.clone()
        optimiser.step(step, torch.tensor(1.0), rate=RATE, clip=CLIP, decays={"average": DECAY})
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)
        adam.step()
        for mean, parameter in zip(average, theirs.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - DECAY)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    for mine, other in zip(optimiser.averages["average"].values(), average, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_a_gradient_far_too_long_moves_the_weights_as_far_as_one_of_the_largest_length():
    """AdamW's first step hides a gradient's length; its moments do not."""
    moments = []
    for norm in (CLIP, 1000 * CLIP):
        network = small()
        optimiser = Optimiser(network, WEIGHT_DECAY, [], LossScale("fp32", torch.device("cpu")), ALONE)
        for parameter, gradient in zip(network.parameters(), gradients(0, norm), strict=True):
            parameter.grad = gradient
        optimiser.step(0, torch.tensor(1.0), rate=RATE, clip=CLIP, decays={})
        moments.append(optimiser.adam.state[network.weight]["exp_avg"])
    torch.testing.assert_close(moments[0], moments[1], rtol=1e-5, atol=0)
