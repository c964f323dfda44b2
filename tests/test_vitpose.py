"""Keypoint heads compute what ViTPose's do, on all levels of a UNet."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_perception.core.heads.table import build_head, untrained_head
from diffusion_perception.core.heads.vitpose import without_batch_norm

KINDS = ("vitpose_classic", "vitpose_simple")
WIDTHS = (16, 32, 48, 64)
"""Of a UNet's levels, finest first."""


def features(height: int = 8, width: int = 12, batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a latent of this size, each level half the one above, rounded up."""
    random = torch.Generator().manual_seed(0)
    sizes = [(-(-height // step), -(-width // step)) for step in (4, 2, 1, 1)]
    deepest, deep, middle, fine = (
        torch.randn(batch, channels, *size, generator=random) for channels, size in zip(reversed(WIDTHS), sizes)
    )
    return deepest, deep, middle, fine


def head(kind: str, outputs: int = 17) -> nn.Module:
    torch.manual_seed(1)
    made = untrained_head(kind, WIDTHS, 32, outputs).eval()
    for name, weight in made.named_parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)
    return made.requires_grad_(False)


def lateral(weights: dict[str, Tensor], given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """What the levels add up to at half the latent's size, an even one."""
    deepest, deep, middle, fine = given
    levels = (F.interpolate(deepest, scale_factor=2, mode="bilinear"), deep, middle, fine)
    total = torch.zeros(())
    for i, level in enumerate(levels):
        kernel = weights[f"lateral.convs.{i}.weight"]
        x = F.conv2d(level, kernel, weights[f"lateral.convs.{i}.bias"], stride=kernel.shape[-1])
        total = total + F.group_norm(x, 32, weights[f"lateral.norms.{i}.weight"], weights[f"lateral.norms.{i}.bias"])
    return total


def test_the_classic_head_is_two_transposed_convolutions_and_one_of_a_single_cell():
    made, given = head("vitpose_classic"), features()
    weights = made.state_dict()
    x = F.relu(lateral(weights, given))
    for conv, norm in ((0, 1), (3, 4)):
        x = F.conv_transpose2d(x, weights[f"deconv_layers.{conv}.weight"], stride=2, padding=1)
        norms = (weights[f"deconv_layers.{norm}.{part}"] for part in ("weight", "bias"))
        x = F.relu(F.group_norm(x, 32, *norms))
    expected = F.conv2d(x, weights["final_layer.weight"], weights["final_layer.bias"])
    assert torch.allclose(made(given), expected, atol=1e-5)


def test_the_simple_head_interpolates_and_convolves_once():
    made, given = head("vitpose_simple"), features()
    weights = made.state_dict()
    x = F.interpolate(F.relu(lateral(weights, given)), scale_factor=4, mode="bilinear")
    expected = F.conv2d(x, weights["final_layer.weight"], weights["final_layer.bias"], padding=1)
    assert torch.allclose(made(given), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 6), (32, 24), (9, 7), (5, 11), (4, 4)])
def test_heatmaps_come_at_a_quarter_of_the_crop(kind, size):
    found = head(kind)(features(*size))
    assert found.shape == (2, 17, 2 * size[0], 2 * size[1])
    assert found.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_133_keypoints_is_built_by_the_shapes_of_its_weights(kind):
    weights = head(kind, 133).state_dict()
    built = build_head(kind, {name: tuple(weight.shape) for name, weight in weights.items()})
    built.load_state_dict(weights)
    assert built.eval()(features()).shape[1] == 133


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_head_are_refused(kind):
    with pytest.raises(ValueError, match=f"The weights of {kind} lack"):
        build_head(kind, {"conv.weight": (1, 1, 3, 3)})


def test_vitposes_batch_norm_becomes_part_of_the_convolution_before_it():
    made, given = head("vitpose_classic"), features()
    weights = made.state_dict()
    norms = {}
    for place in (1, 4):
        norms[place] = nn.BatchNorm2d(32).eval()
        torch.manual_seed(place)
        for values in (norms[place].weight, norms[place].bias, norms[place].running_mean):
            nn.init.normal_(values, 0.5, 0.5)
        nn.init.uniform_(norms[place].running_var, 0.2, 3)
        weights |= {f"deconv_layers.{place}.{name}": value for name, value in norms[place].state_dict().items()}
    x = F.relu(lateral(weights, given))
    for conv, norm in ((0, 1), (3, 4)):
        x = F.relu(norms[norm](F.conv_transpose2d(x, weights[f"deconv_layers.{conv}.weight"], stride=2, padding=1)))
    expected = F.conv2d(x, weights["final_layer.weight"], weights["final_layer.bias"])
    folded = without_batch_norm(weights)
    built = build_head("vitpose_classic", {name: tuple(weight.shape) for name, weight in folded.items()})
    built.load_state_dict(folded)
    assert torch.allclose(built.eval()(given), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_without_batch_norm_stay_as_they_are(kind):
    weights = head(kind).state_dict()
    assert without_batch_norm(weights).keys() == weights.keys()
