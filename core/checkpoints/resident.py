"""Resident networks: a model that a host has loaded, as what an adapter is opened on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..errors import UserError
from .architecture import UNetArchitecture
from .layers import shapes_of
from .networks import Networks
from .tensors import CheckpointError, Weights

NO_UNET = "The loaded model is {kind}, not a Stable Diffusion UNet: load an SD 1.x or 2.x checkpoint."


def resident_networks(layers: Mapping[str, nn.Module], vae: Weights) -> Networks:
    """What is in memory and not on disk. layers: the UNet's, by diffusers names. CheckpointError if it is none."""
    shapes = shapes_of(layers)
    unet = Weights((Path("the loaded model"),), {}, dict(shapes))
    try:
        architecture = UNetArchitecture.from_weights(shapes)
    except UserError as error:
        raise CheckpointError(f"The loaded model cannot be used: {error}.") from None
    return Networks(unet.path, unet, architecture, vae)
