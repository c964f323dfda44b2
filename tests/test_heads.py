"""Heads: DPT computes what the transformers library's own DPT does, the others what is written of them."""

from __future__ import annotations

from functools import cache

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_perception.core.heads.table import HEADS, build_head, untrained_head

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


WIDTHS = (32, 64, 64, 64)
"""Of tiny.unet(), finest first."""
OUTPUTS = 5


@cache
def new(name: str, outputs: int = OUTPUTS) -> nn.Module:
    """A head as training begins with it."""
    torch.manual_seed(7)
    return untrained_head(name, WIDTHS, 32, outputs).eval()


def resized(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def upernet(w: dict[str, Tensor], given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Xiao et al. 2018, sec. 3.2 and fig. 4, with group norms of 16 channels."""

    def block(name: str, x: Tensor) -> Tensor:
        kernel = w[f"{name}.conv.weight"]
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        return F.relu(F.group_norm(x, x.shape[1] // 16, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"]))

    c5, c4, c3, c2 = given
    c2 = F.conv2d(c2.repeat_interleave(2, 2).repeat_interleave(2, 3), w["finest.weight"], w["finest.bias"], padding=1)
    parts = [c5]
    for i, cells in enumerate((1, 2, 3, 6)):
        parts.append(resized(block(f"pooling.branches.{i}", F.adaptive_avg_pool2d(c5, cells)), c5.shape[-2:]))
    p5 = block("pooling.fuse", torch.cat(parts, 1))
    p4 = block("laterals.2", c4) + resized(p5, c4.shape[-2:])
    p3 = block("laterals.1", c3) + resized(p4, c3.shape[-2:])
    p2 = block("laterals.0", c2) + resized(p3, c2.shape[-2:])
    levels = [p5, block("smooth.2", p4), block("smooth.1", p3), block("smooth.0", p2)]
    fused = block("fuse", torch.cat([resized(level, c2.shape[-2:]) for level in levels], 1))
    return F.conv2d(fused, w["classify.weight"], w["classify.bias"])


def plain(w: dict[str, Tensor], given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    size = given[3].shape[-2:]
    mixed = [F.conv2d(x, w[f"reduce.{i}.weight"], w[f"reduce.{i}.bias"]) for i, x in enumerate(given)]
    x = F.relu(F.group_norm(torch.stack([resized(x, size) for x in mixed]).sum(0), 1, w["norm.weight"], w["norm.bias"]))
    x = F.relu(F.conv2d(x, w["mix.weight"], w["mix.bias"], padding=1))
    return F.conv2d(x, w["predict.weight"], w["predict.bias"], padding=1)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", ["upernet", "plain"])
def test_a_head_computes_what_is_written_of_it(name, odd):
    given = features(3, 5, odd=odd)
    with torch.no_grad():
        expected = {"upernet": upernet, "plain": plain}[name](new(name).state_dict(), given)
        assert_close(new(name)(given), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (9, 7)])
def test_class_scores_lie_at_a_quarter_of_the_picture_whatever_its_size(size):
    with torch.no_grad():
        assert new("upernet")(features(*size)).shape == (2, OUTPUTS, 8 * size[0], 8 * size[1])


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_to_the_shape_of_its_weights(name):
    tensors = new(name).state_dict()
    assert tiny.shapes(build_head(name, tiny.shapes(tensors)).state_dict()) == tiny.shapes(tensors)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_keeps_nothing_but_weights_and_all_of_them_learn(name):
    """Averages that a BatchNorm keeps would be neither learnt nor the same in training and inference."""
    head = untrained_head(name, WIDTHS, 32, OUTPUTS)
    assert list(head.buffers()) == []
    head(features()).square().mean().backward()
    assert [name for name, weight in head.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("width", [8, 24, 40])
def test_a_head_may_be_of_any_width(name, width):
    with torch.no_grad():
        assert untrained_head(name, WIDTHS, width, 3)(features())[0, :, 0, 0].shape == (3,)


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown head 'mlp'.*dpt_head_identity, dpt_head, .*update the pack"):
        build_head("mlp", {})
    with pytest.raises(ValueError, match="no head 'mlp' to train: take one of dpt_head_identity.*upernet"):
        untrained_head("mlp", WIDTHS, 32, 1)


@pytest.mark.parametrize(("name", "lacks"), [("dpt_head", "neck.convs.0"), ("upernet", "laterals.0.conv")])
def test_weights_of_another_head_are_refused_by_what_they_lack(name, lacks):
    with pytest.raises(ValueError, match=f"The weights of {name} lack '{lacks}.weight'"):
        build_head(name, {"conv.weight": (1, 1, 3, 3)})
