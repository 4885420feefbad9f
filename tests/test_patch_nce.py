"""The contrastive loss between patches, and the projection that it looks at."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.translation.training.initial import draw_weights
from d2r_fast.translation.training.patch_nce import TEMPERATURE, patch_nce
from d2r_fast.translation.training.patch_sampler import PatchSampler, draw_places


def units(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def as_published(queries: Tensor, keys: Tensor) -> Tensor:
    """Own counterpart first, then everything at the other places, with -10 where these meet themselves."""
    losses = []
    for query, key in zip(queries, keys.detach(), strict=True):
        own = (query * key).sum(1, keepdim=True)
        rest = (query @ key.T).masked_fill(torch.eye(len(query), dtype=torch.bool), -10.0)
        logits = torch.cat((own, rest), dim=1) / 0.07
        losses.append(F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64)))
    return torch.stack(losses)


def test_the_published_list_of_logits_gives_the_same() -> None:
    queries, keys = units(3, 20, 8, seed=0).requires_grad_(), units(3, 20, 8, seed=1)
    ours, published = patch_nce(queries, keys), as_published(queries, keys)
    torch.testing.assert_close(ours, published, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), queries)[0] for loss in (ours, published)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_orthogonal_patches_cost_what_a_formula_says() -> None:
    axes = torch.eye(6)[None]
    expected = math.log(1 + 5 * math.exp(-1 / TEMPERATURE))
    assert patch_nce(axes, axes).item() == pytest.approx(expected, rel=1e-2, abs=1e-6)
    shifted = math.log(math.exp(1 / TEMPERATURE) + 5)
    assert patch_nce(axes, axes.roll(1, dims=1)).item() == pytest.approx(shifted, rel=1e-6)


def test_no_gradient_reaches_the_keys() -> None:
    queries, keys = units(1, 5, 4, seed=0).requires_grad_(), units(1, 5, 4, seed=1).requires_grad_()
    patch_nce(queries, keys).sum().backward()
    assert keys.grad is None
    assert queries.grad is not None
    assert queries.grad.abs().max() > 0


def test_bf16_networks_get_a_float32_loss() -> None:
    queries, keys = units(2, 9, 4, seed=0), units(2, 9, 4, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(patch_nce(queries, keys), patch_nce(queries.float(), keys.float()))
        assert patch_nce(queries, keys).dtype == torch.float32
    torch.testing.assert_close(patch_nce(queries, keys), as_published(queries, keys))


def test_places_differ_and_are_the_same_in_all_images() -> None:
    many, few = draw_places([100, 9], num_images=3, num_patches=20, draws=torch.Generator().manual_seed(4))
    assert many.shape == (3, 20)
    assert len(set(many[0].tolist())) == 20
    assert torch.equal(many[0], many[2])
    assert sorted(few[1].tolist()) == list(range(9))
    again = draw_places([100, 9], num_images=1, num_patches=20, draws=torch.Generator().manual_seed(4))
    assert torch.equal(again[0][0], many[0])


def test_patches_go_through_their_layer_s_network_to_unit_length() -> None:
    sampler = PatchSampler((3, 5), num_features=16)
    draw_weights(sampler, seed=0)
    draws = torch.Generator().manual_seed(0)
    features = [torch.randn(2, channels, 4, 6, generator=draws) for channels in (3, 5)]
    places = [torch.tensor([[0, 7, 23], [1, 2, 3]]), torch.tensor([[5], [6]])]
    vectors = sampler(features, places)
    assert [tuple(layer.shape) for layer in vectors] == [(2, 3, 16), (2, 1, 16)]
    for layer, (feature, place) in enumerate(zip(features, places, strict=True)):
        network = sampler.get_submodule(f"mlp_{layer}")
        for image in range(2):
            for number, at in enumerate(place[image].tolist()):
                hidden = network(feature[image, :, at // 6, at % 6])
                torch.testing.assert_close(vectors[layer][image, number], hidden / (hidden.norm() + 1e-7))
