"""ApplyAdapter: the Stable Diffusion model of the running graph, plus a small adapter, perceives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.backbone import Context
from ..core.checkpoints.architecture import UNetArchitecture
from ..core.checkpoints.assemble import assemble
from ..core.checkpoints.bases import negative_of, open_adapted
from ..core.checkpoints.checkpoint import Checkpoint
from ..core.checkpoints.fingerprint import fingerprint
from ..core.checkpoints.tensors import CheckpointError
from ..core.checkpoints.tensors import shown as shown_path
from ..core.checkpoints.tiny_vae_file import FULL, latents_of
from ..core.checkpoints.vae_latents import connected_vae_note
from ..core.display.picture import choose
from ..core.errors import UserError
from ..core.halves import with_full
from . import host
from .library import LIBRARY, changed, half
from .load import costs, half_input, overrides_input, task_input, wanted_task
from .notes import note, shown, telling
from .schema import ADVANCED, found_by
from .sockets import Perception

WEIGHTS = {"as loaded": False, "clean": True}


class ApplyAdapter(io.ComfyNode):
    """A node: MODEL, VAE and adapter -> PERCEPTION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionApplyAdapter",
            display_name="Apply Perception Adapter",
            category="perception",
            **found_by("perception lora, depth lora, dmp, normal lora, depth adapter, depth from sd1.5"),
            description="Lets the Stable Diffusion model that is loaded already perceive, by an adapter of a few "
            "megabytes that runs beside its weights. The model itself is left as it is.",
            inputs=[
                io.Model.Input("model", tooltip="The model of your graph: SD 1.x or 2.x, as the adapter says."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint, or another of SD 1.x or 2.x; not SDXL's."),
                io.Combo.Input(
                    "adapter", options=LIBRARY.choices(adapters=True), tooltip=f"A file or folder in {LIBRARY.place}."
                ),
                task_input(),
                overrides_input(),
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default="as loaded",
                    tooltip="as loaded: with the LoRAs that are in the model. clean: without them; the host then "
                    "rewrites the whole model before perceiving and before the next generation, which takes seconds.",
                    **ADVANCED,
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="A prompt, for adapters that were trained with one; an empty prompt, where an adapter "
                    "brings no text of its own.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The empty prompt, where guidance_scale is not 1."
                ),
                half_input("decoder"),
                half_input("encoder"),
            ],
            outputs=[Perception.Output(display_name="perception", tooltip="A model that is ready to perceive.")],
        )

    @classmethod
    def validate_inputs(
        cls, adapter: str = "", task: str = "", weights: str = "", decoder: str = "", encoder: str = ""
    ) -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter: str, decoder: str = FULL, encoder: str = FULL, **others: Any) -> str:
        """Read again only when the adapter's files change."""
        return changed(LIBRARY.resolve(adapter, adapters=True), decoder, encoder)

    @classmethod
    @telling
    def execute(
        cls,
        model: Any,
        vae: Any,
        adapter: str,
        task: str,
        overrides: str,
        weights: str = "as loaded",
        conditioning: list | None = None,
        negative: list | None = None,
        decoder: str = FULL,
        encoder: str = FULL,
    ) -> io.NodeOutput:
        backbone = host.resident(model, choose(WEIGHTS, weights, "weights"))
        autoencoder = host.HostAutoencoder(vae, host.scaling_factor(model))
        base = host.resident_base(backbone, vae)
        path = LIBRARY.resolve(adapter, adapters=True)
        checkpoint, found = open_adapted(base, path, _family_in(overrides), wanted_task(task))
        checkpoint = replace(checkpoint, recipe=checkpoint.recipe.override(overrides.split()))
        perceiver = assemble(
            checkpoint,
            host.ResidentHost(backbone),
            adapter=found,
            context=_tokens_of(conditioning, base.architecture),
            negative=_tokens_of(negative, base.architecture) or _opposite(checkpoint),
            encoder=half("encoder", encoder),
            decoder=half("decoder", decoder),
        )
        note(
            *found.notes(fingerprint(backbone.weight)),
            connected_vae_note(checkpoint.recipe, {}, latents_of(base.vae)),
            *costs(checkpoint.recipe, decoder=decoder, encoder=encoder),
        )
        return io.NodeOutput(with_full(perceiver, autoencoder), ui=shown())


def _family_in(overrides: str) -> str:
    """The family that the overrides name, for adapters that do not say theirs."""
    return next((word.partition("=")[2] for word in overrides.split() if word.startswith("family=")), "auto")


def _tokens_of(conditioning: list | None, architecture: UNetArchitecture) -> Context | None:
    """The text tokens of a CONDITIONING's first entry. UserError for those of another text encoder."""
    if not conditioning:
        return None
    tokens = conditioning[0][0][:1].float()
    if tokens.shape[-1] != architecture.context_dim:
        raise UserError(
            f"The conditioning is {tokens.shape[-1]} wide, and the loaded model reads text that is "
            f"{architecture.context_dim} wide: make it with the CLIP of the same checkpoint."
        )
    return Context(tokens)


def _opposite(checkpoint: Checkpoint) -> Context | None:
    """The negative context that came with the adapter. CheckpointError if it is needed and there is none."""
    recipe = checkpoint.recipe
    if recipe.guidance_scale == 1:
        return None
    found = negative_of(checkpoint.path, recipe, checkpoint.architecture)
    if found is None:
        raise CheckpointError(
            f"{shown_path(checkpoint.path)} is run with guidance_scale={recipe.guidance_scale:g}, which needs a "
            "negative: connect an empty prompt there, or write guidance_scale=1 into overrides."
        )
    return found


NODES = [ApplyAdapter]
