"""Every wiring of expert and router builds, runs on other sizes, saves and loads, and checkpoints its activations."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers.models.embeddings import PatchEmbed

from paris.models.blocks import MODULATIONS, PER_BLOCK, SINGLE
from paris.models.dit import CROSS, POOLED, DiT
from paris.models.networks import load_network
from paris.models.positions import LEARNED, POSITIONS, ROTARY, SINUSOIDAL, resized, rotate, rotation, sinusoids
from paris.models.router import Router

SIZE = {"channels": 2, "height": 8, "patch": 2, "width": 32, "depth": 2, "heads": 2}
PIXART = {"positions": SINUSOIDAL, "text_layers": 2}
WIRINGS = [
    {"modulation": modulation, "text": text, "positions": positions, "qk_norm": qk_norm}
    for modulation, text, positions, qk_norm in itertools.product(
        MODULATIONS, (CROSS, POOLED), POSITIONS, (False, True)
    )
    if (modulation, text) != (SINGLE, POOLED)
]
WIRINGS += [PIXART, {"modulation": PER_BLOCK, "text": POOLED, "text_layers": 2}]


def shaken(network):
    """Weights of no special value: fresh networks begin with zeros where an error could hide."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(height: int = 8, width: int = 8):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 2, height, width, generator=generator)
    text = torch.randn(3, 5, 16, generator=generator)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True] + [False] * 4])
    return x, torch.tensor([0.1, 0.5, 0.9]), text, mask


@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: "-".join(str(value) for value in wiring.values()))
def test_a_wiring_survives_saving_and_fits_other_sizes(tmp_path, wiring):
    expert = shaken(DiT(**SIZE, text_dim=16, **wiring)).eval()
    with torch.no_grad():
        v = expert(*inputs())
        assert v.shape == (3, 2, 8, 8)
        expert.save_pretrained(tmp_path)
        assert torch.equal(load_network(DiT, tmp_path)(*inputs()), v)
        assert expert(*inputs(12, 6)).shape == (3, 2, 12, 6)
        with pytest.raises(ValueError, match="cannot be cut into patches"):
            expert(*inputs(9, 8))


@pytest.mark.parametrize("wiring", WIRINGS[::3])
def test_text_that_does_not_count_changes_nothing(wiring):
    expert = shaken(DiT(**SIZE, text_dim=16, **wiring)).eval()
    x, t, text, mask = inputs()
    other = torch.where(mask[..., None], text, 100 * torch.randn_like(text))
    with torch.no_grad():
        torch.testing.assert_close(expert(x, t, text, mask), expert(x, t, other, mask))
        assert not torch.allclose(expert(x, t, text, mask), expert(x, t, text.flip(0), mask))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", ["expert", "router"])
def test_checkpointed_activations_give_the_same_gradients(kind, positions):
    x, t, text, mask = inputs()
    if kind == "expert":
        network = shaken(DiT(**SIZE, text_dim=16, positions=positions)).train()
        asked = (x, t, text, mask)
    else:
        network = shaken(Router(**SIZE, clusters=3, text_dim=16, positions=positions)).train()
        asked = (x, t, text[:, 0])
    found = []
    for _ in range(2):
        network.zero_grad()
        network(*asked).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
        network.enable_gradient_checkpointing()
    assert network.is_gradient_checkpointing
    torch.testing.assert_close(*found)


def test_attention_over_rotary_places_sees_differences_of_places_alone():
    """Su et al. 2021, equation 16: <R_m q, R_n k> depends on m - n; here along both axes of a picture."""
    torch.manual_seed(0)
    q, k = torch.randn(8), torch.randn(8)
    turn = rotation(5, 7, 8, torch.device("cpu"))
    everywhere_q = rotate(q.expand(1, 1, 35, 8), turn)[0, 0].reshape(5, 7, 8)
    everywhere_k = rotate(k.expand(1, 1, 35, 8), turn)[0, 0].reshape(5, 7, 8)
    for down, right in ((0, 0), (1, 2), (3, 1)):
        rows, columns = 5 - down, 7 - right
        products = (everywhere_q[:rows, :columns] * everywhere_k[down:, right:]).sum(-1)
        torch.testing.assert_close(products, products[0, 0].expand_as(products))
    assert torch.equal(rotate(q.expand(1, 1, 36, 8), rotation(5, 7, 8, q.device, unplaced=1))[0, 0, 0], q)


def test_learned_places_are_kept_on_their_own_grid_and_smooth_on_another():
    places = torch.arange(16.0)[:, None].expand(16, 3)
    assert resized(places, 4, 4) is places
    assert resized(places, 8, 6).shape == (48, 3)
    assert torch.all(resized(places, 8, 8).diff(dim=0)[:7] > 0)


@pytest.mark.parametrize(
    ("side", "patch", "rows", "columns"),
    [(8, 2, 4, 4), (8, 2, 7, 3), (64, 2, 32, 32), (128, 8, 16, 16), (128, 8, 5, 9)],
)
def test_sinusoids_are_those_of_pixart_on_every_grid(side, patch, rows, columns):
    theirs = PatchEmbed(side, side, patch, in_channels=1, embed_dim=16, interpolation_scale=max(side // 64, 1))
    with torch.no_grad():
        for part in theirs.proj.parameters():
            part.zero_()
        expected = theirs(torch.zeros(1, 1, rows * patch, columns * patch))[0]
    assert torch.equal(sinusoids(rows, columns, side, patch, 16, torch.device("cpu")), expected)


def test_sinusoids_first_needed_without_gradients_serve_training_after():
    expert = shaken(DiT(**SIZE, text_dim=16, **PIXART))
    with torch.inference_mode():
        expert(*inputs(10, 14))
    expert(*inputs(10, 14)).square().sum().backward()
    assert expert.pos_embed is None
    assert all(bool(parameter.grad.any()) for parameter in expert.parameters())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"height": 7}, "patch must divide height"),
        ({"heads": 3}, "heads must divide width"),
        ({"positions": "absolute"}, "positions are"),
        ({"modulation": "film"}, "modulation is"),
        ({"positions": ROTARY, "heads": 16}, "a width that 4 divides"),
        ({"positions": SINUSOIDAL, "width": 30}, "a width that 4 divides"),
        ({"text": "shouted"}, "text is"),
        ({"text_layers": 3}, "text_layers of 3"),
        ({"text_layers": True}, "text_layers of True"),
        ({"text": POOLED, "modulation": SINGLE}, "with per-block modulation"),
    ],
)
def test_an_impossible_wiring_is_named(changes, why):
    with pytest.raises(ValueError, match=why):
        DiT(**{**SIZE, "text_dim": 16, **changes})


def test_sizes_of_the_papers():
    """The public port's wiring gives 605.97 M an expert and 129.14 M the blind router (Paris's model card: 605 M)."""
    latents = {"channels": 4, "height": 32, "patch": 2}
    with torch.device("meta"):
        xl = DiT(**latents, width=1152, depth=28, heads=16, text_dim=768)
        own = DiT(**latents, width=1152, depth=28, heads=16, text_dim=768, modulation=PER_BLOCK, positions=LEARNED)
        router = Router(**latents, width=768, depth=12, heads=12, clusters=8, text_dim=0)
    millions = [round(sum(p.numel() for p in n.parameters()) / 1e6, 2) for n in (xl, own, router)]
    assert millions[0] == 605.97
    assert millions[2] == 129.14
    assert 205 < millions[1] - millions[0] < 220, "AdaLN-Single saves about 215 M against a projection in every block"
