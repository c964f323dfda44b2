"""The model that a host has loaded perceives, with an adapter beside its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from ..core.backbone import Autoencoder, Backbone, Context, Head
from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.assemble import Host, assemble
from ..core.checkpoints.bases import open_adapted
from ..core.checkpoints.fingerprint import fingerprint
from ..core.checkpoints.resident import resident_networks
from ..core.checkpoints.tensors import Weights
from ..core.checkpoints.tiny_vae_file import latents_of
from ..core.checkpoints.vae_latents import connected_vae_note
from ..core.halves import Half, with_full
from ..core.pipeline import Perceiver
from .text import Texts

log = logging.getLogger(__name__)


class ResidentBackbone(Backbone, Protocol):
    """The UNet of the model that is loaded, with the user's LoRAs as they are in it."""

    def weight(self, name: str) -> Tensor:
        """One by its diffusers name as it was before the user's LoRAs. KeyError if there is none."""
        ...


class Resident(NamedTuple):
    """A model that a host has loaded, as much of it as an adapter needs."""

    backbone: ResidentBackbone
    autoencoder: Autoencoder
    vae: Weights
    """The VAE's."""
    encode: Callable[[str], Tensor]
    """What its text encoder makes of a prompt: (1, 77, D) float32, of its last layer."""


class OnResident(Texts):
    """A host for an adapter on the model that it has loaded; heads and light halves are its as of any checkpoint."""

    perceiver = Perceiver

    def __init__(self, host: Host, backbone: Backbone) -> None:
        self.host, self.resident = host, backbone

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> Backbone:
        return self.resident

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> Autoencoder:
        return self.host.autoencoder(weights, architecture)

    def head(self, name: str, weights: Weights) -> Head:
        return self.host.head(name, weights)

    def light(self, weights: Weights) -> Half:
        return self.host.light(weights)


def adapted(resident: Resident, path: Path, task: str, host: Host) -> Perceiver:
    """Ready to perceive by the adapter in a file or folder; what a person should know of it is logged.

    task: which of its recipes. CheckpointError, in one sentence, if it is not for this model.
    """
    base = resident_networks(resident.backbone.modules(), resident.vae)
    checkpoint, adapter = open_adapted(base, path, task=task)
    recipe = checkpoint.recipe
    notes = *adapter.notes(fingerprint(resident.backbone.weight)), connected_vae_note(recipe, {}, latents_of(base.vae))
    for note in filter(None, notes):
        log.warning("%s", note)
    context = checkpoint.context or Context(resident.encode(recipe.prompt))
    negative = None if recipe.guidance_scale == 1 else Context(resident.encode(""))
    perceiver = assemble(
        checkpoint, OnResident(host, resident.backbone), adapter=adapter, context=context, negative=negative
    )
    return with_full(perceiver, resident.autoencoder)
