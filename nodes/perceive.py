"""Perceive and PerceiveLatent: images, or latents that were just sampled, -> their maps."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..core.checkpoints.tiny_vae_file import latents_of
from ..core.checkpoints.vae_latents import connected_vae_note
from ..core.display.picture import as_rgb, checked_image, choose, ready, ready_picture
from ..core.display.segmentation import unread
from ..core.errors import UserError
from ..core.generations import LATENT, latent_space
from ..core.halves import full_of, with_full
from ..core.large_pictures import LARGEST, passes_large, predict_large
from ..core.multitask import passes_of_tasks, predict_latent_tasks, predict_tasks, targets_of
from ..core.perception_map import PerceptionMap
from ..core.pipeline import Perceiver, passes, predict, predict_latent
from ..core.video import blending, check_share
from . import host
from .notes import note, telling
from .preview import previewed
from .schema import ADVANCED, found_by
from .sockets import Perception, PerceptionMapSocket


def _perception_outputs() -> list[io.Output]:
    """What every node gives that perceives; without ids, which must differ from those of the inputs."""
    return [
        PerceptionMapSocket.Output(
            display_name="map", tooltip="Raw values with their meaning, for the render, mask and save nodes."
        ),
        io.Image.Output(
            display_name="image",
            tooltip="A picture that is ready for the ControlNet of the task: near is white, red is left. A "
            "segmentation has its own palette's colours: Render Segmentation gives ADE20K's, which ControlNets read.",
        ),
        io.Mask.Output(
            display_name="mask",
            tooltip="Of a mask or matte: that itself, 1 = subject. Of depth: the picture as a soft mask, 1 = nearest. "
            "Of others: all that is known, mostly everything. To select by depth or class take Mask from Map.",
        ),
    ]


def _resolution_input() -> io.Int.Input:
    return io.Int.Input(
        "resolution",
        default=-1,
        min=-1,
        max=16384,
        tooltip="Processing resolution: -1 as trained, 0 the image's own, else pixels of the longest edge "
        "(or as the recipe says).",
    )


def _batch_size_input() -> io.Int.Input:
    return io.Int.Input(
        "batch_size",
        default=1,
        min=1,
        max=64,
        tooltip="Images per pass of the networks. More is faster on a large GPU and takes more memory; results then "
        "differ in the last digits.",
        **ADVANCED,
    )


def vae_input() -> io.Vae.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Needed where the checkpoint brings no VAE; one that is connected is used instead of the checkpoint's. "
        "Right are those of Stable Diffusion 1.x and 2.x (of any such checkpoint, or vae-ft-mse-840000); SDXL's has 4 "
        "channels too and is wrong.",
    )


def precision_input() -> io.Combo.Input:
    """The last input of a node: saved workflows hold widgets by their order."""
    return io.Combo.Input(
        "vae_precision",
        options=list(host.PRECISIONS),
        default=host.FULL_PRECISION,
        optional=True,
        tooltip="Advanced: what the VAE computes in. full: single precision. as the host runs it: half precision on "
        "most graphics cards, by its own estimate in half the memory; it shows as fine steps in depths and normals.",
        **ADVANCED,
    )


def _tile_input() -> io.Int.Input:
    return io.Int.Input(
        "tile",
        default=0,
        min=0,
        max=LARGEST,
        step=8,
        optional=True,
        tooltip="For large pictures. 0: seen once. N: a picture larger than N pixels is seen as a whole and again in "
        "overlapping tiles of N x N, whose detail is brought to what the whole shows. Resolution is then the tiles'.",
        **ADVANCED,
    )


def _blend_input() -> io.Float.Input:
    return io.Float.Input(
        "blend",
        default=0.0,
        min=0.0,
        max=0.95,
        step=0.05,
        optional=True,
        tooltip="For the frames of one video, in their order: the share of the frames before in each answer, where "
        "nothing moves. 0.5 flickers less and costs little; 0 sees each frame by itself.",
        **ADVANCED,
    )


def _picture_inputs() -> list[Any]:
    """What a node takes beside its perception that perceives an image."""
    return [
        io.Image.Input("image", tooltip="One image or a batch; any size from 16 pixels up, any aspect."),
        vae_input(),
        _resolution_input(),
        _batch_size_input(),
        precision_input(),
    ]


class Perceive(io.ComfyNode):
    """A node: image -> map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionPerceive",
            display_name="Perceive (Depth/Normal/Mask/Segmentation)",
            category="perception",
            **found_by(
                "depth, depth map, depth estimation, normal, normals, normal map, surface normals, mask, "
                "segmentation, matte, matting, alpha matte, background removal, remove background, albedo, "
                "shading, intrinsic images, disparity, marigold, genpercept, lotus, preprocessor, controlnet "
                "preprocessor"
            ),
            description="Predicts depth, normals, a mask or another map of an image, at the image's own size, and "
            "shows it.",
            inputs=[
                Perception.Input("perception", tooltip="From Load Perception Model or Apply Perception Adapter."),
                *_picture_inputs(),
                _tile_input(),
                _blend_input(),
            ],
            outputs=_perception_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, vae_precision: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        perception: Perceiver,
        image: Tensor,
        resolution: int,
        batch_size: int,
        vae: Any = None,
        vae_precision: str = host.FULL_PRECISION,
        tile: int = 0,
        blend: float = 0.0,
    ) -> io.NodeOutput:
        check_share(blend, tile)
        perceiver = blending(prepared(perception, vae, vae_precision), blend)
        pictures = as_rgb(checked_image(image)).movedim(-1, 1)
        if tile:
            tick = host.ticker(passes_large(perceiver, pictures, tile, batch_size))
            seen = predict_large(perceiver, pictures, tile, resolution=resolution, batch_size=batch_size, tick=tick)
        else:
            tick = host.ticker(passes(perceiver.recipe, len(pictures), batch_size))
            seen = predict(perceiver, pictures, resolution=resolution, batch_size=batch_size, tick=tick)
        return outputs(cls, seen)


LATENTS = (
    "What a sampler just made: of a Stable Diffusion 1.x or 2.x model, or from VAE Encode with such a model's VAE. "
    "Latents of SDXL have 4 channels too, cannot be told from these, and give nonsense. A "
    "checkpoint with a VAE of its own, such as the starter, reads latents of that VAE alone."
)


class PerceiveLatent(io.ComfyNode):
    """A node: latent -> map, without decoding and encoding again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionPerceiveLatent",
            display_name="Perceive Latent",
            category="perception",
            **found_by(
                "depth of latent, depth map, normal map, depth from latent, latent to depth, latent preprocessor"
            ),
            description="Predicts a map of what a sampler just made, straight from its latent, and shows it.",
            inputs=[
                Perception.Input(
                    "perception",
                    tooltip="From Apply Perception Adapter on the model that sampled, or from Load Perception Model.",
                ),
                io.Latent.Input("latent", tooltip=LATENTS),
                vae_input(),
                _batch_size_input(),
                precision_input(),
            ],
            outputs=_perception_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, vae_precision: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        perception: Perceiver,
        latent: dict[str, Any],
        batch_size: int,
        vae: Any = None,
        vae_precision: str = host.FULL_PRECISION,
    ) -> io.NodeOutput:
        perceiver = prepared(perception, vae, vae_precision)
        samples = _check_latent(latent["samples"]) * _latent_scaling(perceiver)
        tick = host.ticker(passes(perceiver.recipe, len(samples), batch_size, encode=False))
        return outputs(cls, predict_latent(perceiver, samples, batch_size=batch_size, tick=tick))


def prepared(perceiver: Perceiver, vae: Any, precision: str) -> Perceiver:
    """With the connected VAE, if there is one, computing in the precision that is chosen.

    A connected VAE's latents are scaled as the checkpoint's own are; it notes what a person should know, also while it
    perceives. UserError for a VAE whose latents are others than the checkpoint perceives.
    """
    own = full_of(perceiver.autoencoder)
    own = own.vae if isinstance(own, host.HostAutoencoder) else None
    choose(host.PRECISIONS, precision, "vae_precision")
    if vae is None and own is None:
        return perceiver
    autoencoder = host.HostAutoencoder(own if vae is None else vae, _latent_scaling(perceiver), precision, note)
    if vae is not None:
        known = {} if own is None else latents_of(host.weights_of(own))
        note(connected_vae_note(perceiver.recipe, known, latents_of(host.weights_of(vae))))
    return with_full(perceiver, autoencoder)


def _latent_scaling(perceiver: Perceiver) -> float:
    known = perceiver.autoencoder or latent_space(perceiver.recipe.base)
    return known.scaling_factor


def _check_latent(samples: Tensor) -> Tensor:
    """(B, 4, h, w) float32. UserError for latents of another kind of model."""
    if samples.ndim != 4 or samples.shape[1] != LATENT or samples.shape[0] == 0:
        raise UserError(
            f"The latent has shape {tuple(samples.shape)}; expected (B, 4, h, w): "
            "connect the latent of a Stable Diffusion 1.x or 2.x model."
        )
    return samples.float()


def outputs(node: type[io.ComfyNode], result: PerceptionMap) -> io.NodeOutput:
    """The map, its picture for a ControlNet, its mask, where the host wants them; and the picture on the node."""
    image, mask = ready(result)
    note(unread(result), warning=False)
    device = host.output_device()
    return io.NodeOutput(result, image.to(device), mask.to(device), ui=previewed(node, image))


def _several_outputs(
    node: type[io.ComfyNode], maps: dict[str, PerceptionMap], missing: dict[str, str]
) -> io.NodeOutput:
    """A map for each name of `missing`, then a picture for each; in place of a picture that there is not, why."""
    pictures = {name: _picture_of(map) for name, map in maps.items()}
    images = [pictures.get(name, host.nothing(why)) for name, why in missing.items()]
    seen = [picture for picture in pictures.values() if isinstance(picture, Tensor)]
    return io.NodeOutput(*(maps.get(name) for name in missing), *images, ui=previewed(node, *seen))


def _picture_of(map: PerceptionMap) -> Any:
    """Ready for a ControlNet; of a map that cannot be shown, why."""
    try:
        note(unread(map), warning=False)
        return ready_picture(map).to(host.output_device())
    except UserError as error:
        note(str(error))
        return host.nothing(str(error))


TASK_INPUTS = ("perception", "perception_2", "perception_3", "perception_4")


class PerceiveTasks(io.ComfyNode):
    """A node: several perceptions of one image or latent, which is encoded once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first, *further = TASK_INPUTS
        return io.Schema(
            node_id="DiffusionPerceptionPerceiveTasks",
            display_name="Perceive Tasks",
            category="perception",
            **found_by("depth and normal, several maps, multi task, depth map, normal map"),
            description="Predicts up to four maps of one image or latent, and shows them. The image is encoded once, "
            "and tasks of one file share one pass of the network.",
            inputs=[
                Perception.Input(first, tooltip="From Load Perception Model or Apply Perception Adapter."),
                *(Perception.Input(name, optional=True, tooltip="Another task of the same base.") for name in further),
                io.Image.Input("image", optional=True, tooltip="One image or a batch. Connect this or a latent."),
                io.Latent.Input("latent", optional=True, tooltip=f"In place of an image. {LATENTS}"),
                vae_input(),
                _resolution_input(),
                _batch_size_input(),
                precision_input(),
            ],
            outputs=[
                PerceptionMapSocket.Output(
                    display_name=f"map_{i + 1}", tooltip=f"What {name} predicts; nothing where none is connected."
                )
                for i, name in enumerate(TASK_INPUTS)
            ]
            + [
                io.Image.Output(
                    display_name=f"image_{i + 1}", tooltip=f"A picture of map_{i + 1} that is ready for its ControlNet."
                )
                for i in range(len(TASK_INPUTS))
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, vae_precision: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        resolution: int,
        batch_size: int,
        image: Tensor | None = None,
        latent: dict[str, Any] | None = None,
        vae: Any = None,
        vae_precision: str = host.FULL_PRECISION,
        **perceptions: Perceiver,
    ) -> io.NodeOutput:
        places = [name for name in TASK_INPUTS if perceptions.get(name) is not None]
        perceivers = _one_autoencoder([prepared(perceptions[name], vae, vae_precision) for name in places])
        if latent is not None and image is None:
            samples = _check_latent(latent["samples"]) * _latent_scaling(perceivers[0])
            tick = host.ticker(passes_of_tasks(perceivers, len(samples), batch_size, None))
            maps = predict_latent_tasks(perceivers, samples, batch_size=batch_size, tick=tick)
        elif image is not None and latent is None:
            pictures = as_rgb(checked_image(image)).movedim(-1, 1)
            tick = host.ticker(passes_of_tasks(perceivers, len(pictures), batch_size, resolution))
            maps = predict_tasks(perceivers, pictures, resolution=resolution, batch_size=batch_size, tick=tick)
        else:
            raise UserError("Connect an image or a latent, and not both.")
        missing = {name: f"Perceive Tasks has no such picture: connect {name}." for name in TASK_INPUTS}
        return _several_outputs(cls, dict(zip(places, maps)), missing)


TARGETS = ("albedo", "shading", "residual", "roughness", "metallic")
"""What intrinsic images are made of; a checkpoint has some of these."""


class PerceiveIntrinsics(io.ComfyNode):
    """A node: image -> a map of each target that its network predicts at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionPerceiveIntrinsics",
            display_name="Perceive Intrinsics",
            category="perception",
            **found_by(
                "intrinsic images, intrinsic decomposition, albedo, shading, residual, roughness, metallic, material, "
                "pbr, marigold iid, delight"
            ),
            description="Predicts albedo, shading, roughness and the like of an image, all that its checkpoint "
            "predicts at once, in one run of the network, and shows them.",
            inputs=[
                Perception.Input(
                    "perception", tooltip="Of a checkpoint for intrinsic images, whichever of its tasks was loaded."
                ),
                *_picture_inputs(),
            ],
            outputs=[
                PerceptionMapSocket.Output(display_name=name, tooltip="Nothing where the checkpoint has none.")
                for name in TARGETS
            ]
            + [io.Image.Output(display_name=f"{name}_image", tooltip=f"A picture of the {name}.") for name in TARGETS],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, vae_precision: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        perception: Perceiver,
        image: Tensor,
        resolution: int,
        batch_size: int,
        vae: Any = None,
        vae_precision: str = host.FULL_PRECISION,
    ) -> io.NodeOutput:
        perceiver = prepared(perception, vae, vae_precision)
        targets = [target for target in targets_of(perceiver) if target.recipe.task in TARGETS]
        if not targets:
            raise UserError(f"This checkpoint predicts {perceiver.recipe.task}: take Perceive for it.")
        pictures = as_rgb(checked_image(image)).movedim(-1, 1)
        tick = host.ticker(passes_of_tasks(targets, len(pictures), batch_size, resolution))
        maps = predict_tasks(targets, pictures, resolution=resolution, batch_size=batch_size, tick=tick)
        missing = {name: f"This checkpoint predicts no {name}: take another output." for name in TARGETS}
        return _several_outputs(cls, {map.task: map for map in maps}, missing)


def _one_autoencoder(perceivers: list[Perceiver]) -> list[Perceiver]:
    """The same VAE object where it is the same VAE, so that one encode serves all."""
    first: dict[tuple[int, float], Any] = {}
    shared = []
    for perceiver in perceivers:
        full = full_of(perceiver.autoencoder)
        if isinstance(full, host.HostAutoencoder):
            perceiver = with_full(perceiver, first.setdefault((id(full.vae), full.scaling_factor), full))
        shared.append(perceiver)
    return shared


NODES = [Perceive, PerceiveLatent, PerceiveTasks, PerceiveIntrinsics]
