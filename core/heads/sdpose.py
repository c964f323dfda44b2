"""SDPose's keypoint head (Liang et al. 2025): MMPose's, with a norm that has no weights, on one level of the UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Features, Layers, Shapes
from ..errors import UserError


class SDPoseHead(nn.Module):
    """A transposed convolution that doubles the size, then two 1x1 convolutions; names as MMPose's.

    Out: (B, K, 2h, 2w) for latents of h x w, a quarter of the picture; no activation, so that values may be below 0.
    """

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        """shapes: of the state dict."""
        super().__init__()
        self.width, inner = shapes["deconv_layers.0.weight"][:2]
        # numbers as MMPose's, which count norms and activations too; these have no weights
        deconvolution = layers.ConvTranspose2d(self.width, inner, 4, stride=2, padding=1, bias=False)
        between = shapes["conv_layers.0.weight"][0]
        self.deconv_layers = nn.ModuleDict({"0": deconvolution})
        self.conv_layers = nn.ModuleDict({"0": layers.Conv2d(inner, between, 1)})
        self.final_layer = layers.Conv2d(between, shapes["final_layer.weight"][0], 1)

    def forward(self, features: Features) -> Tensor:
        x = _level_of(features, self.width)
        for layer in (self.deconv_layers["0"], self.conv_layers["0"]):
            x = F.silu(F.instance_norm(layer(x)))
        return self.final_layer(x)


def _level_of(features: Features, width: int) -> Tensor:
    """The finest level of that width: in Stable Diffusion the last up block has 320 channels, the one before it 640.

    The latter ends in an upsampler, so that both have the latent's size. UserError where neither is as wide.
    """
    found = next((level for level in features[:1:-1] if level.shape[1] == width), None)
    if found is None:
        widths = " or ".join(str(level.shape[1]) for level in features[:1:-1])
        raise UserError(f"The head reads {width} channels, but the UNet gives {widths}: take the head of its own file.")
    return found


def sdpose_shapes(widths: Sequence[int], width: int, outputs: int) -> Shapes:
    """Of a new head, as much as its builder reads, on the finest of features of these widths, finest first."""
    return {
        "deconv_layers.0.weight": (widths[0], width, 4, 4),
        "conv_layers.0.weight": (width, width, 1, 1),
        "final_layer.weight": (outputs, width, 1, 1),
    }
