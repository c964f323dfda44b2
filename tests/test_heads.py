"""The DPT head computes what the transformers library's own DPT does, on the published names."""

from __future__ import annotations

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from diffusion_perception.core.heads import HEAD_KINDS, build_head

PUBLISHED = {
    "feature_upsample_0.conv": 2,
    **{f"neck.convs.{i}": 1 for i in range(4)},
    **{f"neck.fusion_stage.layers.{i}.projection": 2 for i in range(4)},
    **{f"neck.fusion_stage.layers.{i}.residual_layer1.convolution{j}": 1 for i in (1, 2, 3) for j in (1, 2)},
    **{f"neck.fusion_stage.layers.{i}.residual_layer2.convolution{j}": 1 for i in range(4) for j in (1, 2)},
    **dict.fromkeys(("head.projection", "head.head.0", "head.head.2", "head.head.4"), 2),
}
"""Modules of the published state dict and how many tensors each has."""


def features(height: int = 2, width: int = 3, odd: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a latent of four times this size; odd: as a network gives them that had to round sizes up."""
    random = torch.Generator().manual_seed(0)

    def feature(channels: int, scale: int) -> Tensor:
        size = (height * scale - odd, width * scale - odd) if scale > 1 else (height, width)
        return torch.randn(2, channels, *size, generator=random)

    return feature(64, 1), feature(64, 2), feature(64, 4), feature(32, 4)


def reference(tensors: dict[str, Tensor], given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The head of genpercept_dmp.md 1.3, its fusion by transformers' own DPT."""
    from transformers.models.dpt.configuration_dpt import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage

    stage = DPTFeatureFusionStage(DPTConfig(fusion_hidden_size=32, use_bias_in_fusion_residual=False)).eval()
    own = {k.removeprefix("neck.fusion_stage."): v for k, v in tensors.items() if k.startswith("neck.fusion_stage.")}
    assert stage.load_state_dict(own, strict=False).unexpected_keys == []

    def conv(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), padding=padding)

    deepest, deep, middle, fine = given
    fine = conv("feature_upsample_0.conv", F.interpolate(fine, scale_factor=2, mode="nearest"))
    pyramid = [conv(f"neck.convs.{i}", level) for i, level in enumerate((fine, middle, deep, deepest))]
    x = F.relu(conv("head.projection", stage(pyramid)[-1]))
    x = F.interpolate(conv("head.head.0", x), scale_factor=2, mode="bilinear", align_corners=True)
    return conv("head.head.4", F.relu(conv("head.head.2", x)), padding=0)


def test_the_head_has_the_names_of_the_published_weights():
    modules = [name.rpartition(".")[0] for name in tiny.dpt_head().state_dict()]
    assert {name: modules.count(name) for name in modules} == PUBLISHED
    assert len(modules) == 36


@pytest.mark.parametrize("odd", [False, True])
def test_the_head_computes_what_transformers_dpt_does(odd):
    head = tiny.dpt_head()
    given = features(odd=odd)
    with torch.no_grad():
        assert_close(head(given), reference(head.state_dict(), given), atol=1e-5, rtol=1e-4)


def test_the_map_is_32_times_the_deepest_features():
    with torch.no_grad():
        assert tiny.dpt_head()(features(2, 3)).shape == (2, 1, 64, 96)


def test_the_other_head_ends_in_a_relu():
    given = features()
    with torch.no_grad():
        plain, positive = tiny.dpt_head()(given), tiny.dpt_head(positive=True)(given)
    assert plain.min() < 0
    assert torch.equal(positive, F.relu(plain))


@pytest.mark.parametrize("name", HEAD_KINDS)
def test_a_head_is_built_to_the_shape_of_its_weights(name):
    tensors = tiny.dpt_head().state_dict()
    head = build_head(name, tiny.shapes(tensors))
    assert tiny.shapes(head.state_dict()) == tiny.shapes(tensors)


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown head 'mlp'.*dpt_head_identity, dpt_head; update the pack"):
        build_head("mlp", {})


def test_weights_of_another_head_are_refused_by_what_they_lack():
    with pytest.raises(ValueError, match="The weights of dpt_head lack 'neck.convs.0.weight'"):
        build_head("dpt_head", {"conv.weight": (1, 1, 3, 3)})
