"""ApplyAdapter: the Stable Diffusion model of the running graph, plus a small adapter, perceives."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.backbone import Context
from ..core.checkpoints.adapter_file import read_adapter
from ..core.checkpoints.adapters import Adapter
from ..core.checkpoints.architecture import UNetArchitecture
from ..core.checkpoints.attachment import Adapted
from ..core.checkpoints.bases import context_of, negative_of, recipe_of
from ..core.checkpoints.checkpoint import own_head
from ..core.checkpoints.fingerprint import fingerprint
from ..core.checkpoints.layers import shapes_of
from ..core.checkpoints.tensors import CheckpointError, Weights
from ..core.checkpoints.tiny_vae_file import FULL, latents_of, own_light
from ..core.checkpoints.vae_latents import check_latents
from ..core.display.picture import choose
from ..core.errors import UserError
from ..core.halves import with_light
from ..core.recipe import Recipe
from ..core.tiny_vae import Role
from . import host
from .load import (
    choices,
    contents,
    costs,
    half,
    half_input,
    overrides_input,
    resolve,
    taesd_stamps,
    task_input,
    wanted_task,
    weights_of,
)
from .notes import shown
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
                    "adapter", options=choices(adapters=True), tooltip="A file or folder in models/perception."
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
    def fingerprint_inputs(cls, adapter: str, decoder: str = FULL, encoder: str = FULL, **others: Any) -> tuple:
        """Read again only when the adapter's files change."""
        return contents(resolve(adapter, adapters=True)), *taesd_stamps(decoder, encoder)

    @classmethod
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
        architecture = UNetArchitecture.from_weights(shapes_of(backbone.modules()))
        found = read_adapter(resolve(adapter, adapters=True), (architecture.attention, architecture.layers))
        adapted = Adapted(backbone, found)
        recipe = recipe_of(found, architecture, family_in(overrides), wanted_task(task)).override(overrides.split())
        perceiver = host.HostPerceiver(
            recipe,
            adapted,
            tokens_of(conditioning, architecture) or context(found, recipe, architecture),
            host.HostAutoencoder(vae, host.scaling_factor(model)),
            head_of(found, recipe),
            tokens_of(negative, architecture) or opposite(found, recipe, architecture),
        )
        full = weights_of(vae)
        halves = (
            light_half(found, recipe, "encoder", encoder, full),
            light_half(found, recipe, "decoder", decoder, full),
        )
        notes = [
            *found.notes(fingerprint(backbone.weight)),
            check_latents(recipe, {}, latents_of(full)),
            *costs(recipe, decoder=decoder, encoder=encoder),
        ]
        return io.NodeOutput(with_light(perceiver, *halves), ui=shown(notes))


def family_in(overrides: str) -> str:
    """The family that the overrides name, for adapters that do not say theirs."""
    return next((word.partition("=")[2] for word in overrides.split() if word.startswith("family=")), "auto")


def tokens_of(conditioning: list | None, architecture: UNetArchitecture) -> Context | None:
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


def opposite(adapter: Adapter, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
    """The negative context that came with the adapter. CheckpointError if it is needed and there is none."""
    found = negative_of(adapter.path, recipe, architecture)
    if found is None and recipe.guidance_scale != 1:
        raise CheckpointError(
            f"{adapter.name} is run with guidance_scale={recipe.guidance_scale:g}, which needs a negative: connect an "
            "empty prompt there, or write guidance_scale=1 into overrides."
        )
    return found


def context(adapter: Adapter, recipe: Recipe, architecture: UNetArchitecture) -> Context:
    """The context that came with the adapter, else the host's own empty prompt. CheckpointError if there is none."""
    own = host.empty_prompt(architecture.base, recipe.tokens)
    found = context_of(adapter, recipe, architecture) or (Context(own) if own is not None else None)
    if found is None:
        raise CheckpointError(
            f"{adapter.name} comes without a text context: connect a conditioning, such as an empty prompt."
        )
    return found


def light_half(adapter: Adapter, recipe: Recipe, role: Role, choice: str, vae: Weights) -> host.HostLight | None:
    return half(role, choice, recipe, own_light(adapter.path, role, recipe) if adapter.recipes else None, vae)


def head_of(adapter: Adapter, recipe: Recipe) -> host.HostHead | None:
    weights = own_head(adapter.path, recipe) if adapter.recipes else None
    return host.HostHead(recipe.head, weights) if weights is not None else None


NODES = [ApplyAdapter]
