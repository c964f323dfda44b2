"""The graphs of the example workflows. A widget that is not named keeps its default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from api_graph import ApiGraph, Node
from model_links import (
    CHECKPOINT,
    CONTROLNETS,
    DEPTH_ADAPTER,
    LIGHTING,
    LOTUS,
    NORMAL_ADAPTER,
    POSE,
    STARTER,
    VAE,
)

ROOM, BEDROOM, PERSON = "living room", "bedroom", "person in a room"


class Example(ApiGraph):
    """A graph with the nodes that most examples hold, and where the columns of some of them are."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: dict[str, int] = {}
        """Of nodes that stand farther right than what they are wired to asks for."""

    def at(self, column: int, node: Node) -> Node:
        self.columns[node.name] = column
        return node

    def picture(self, picture: str = ROOM) -> Node:
        return self.add("DiffusionPerceptionExamplePicture", picture=picture)

    def model(self, task: str, model: str = STARTER, **widgets: Any) -> Node:
        return self.add("DiffusionPerceptionLoadModel", model=model, task=task, **widgets)

    def perceive(self, perception: Node, image: Any, **inputs: Any) -> Node:
        return self.add("DiffusionPerceptionPerceive", perception=perception, image=image, **inputs)

    def depth(self, map: Any, **widgets: Any) -> Node:
        """A picture of a depth; whatever the mode, near is white in it."""
        near = {"convention": "near is white", "direction": "near is white"}
        return self.add("DiffusionPerceptionDepthToImage", map=map, **{**near, **widgets})

    def stitch(self, first: Any, second: Any, direction: str = "right") -> Node:
        return self.add("ImageStitch", image1=first, image2=second, direction=direction, spacing_width=8)

    def blend(self, first: Any, second: Any, mode: str) -> Node:
        return self.add("ImageBlend", image1=first, image2=second, blend_factor=1.0, blend_mode=mode)

    def save(self, images: Any, name: str) -> Node:
        return self.add("SaveImage", images=images, filename_prefix=f"perception/{name}")

    def save_map(self, map: Any, name: str, format: str = "exr32") -> Node:
        return self.add("DiffusionPerceptionSaveMap", map=map, filename_prefix=f"perception/{name}", format=format)

    def prompt(self, text: str, clip: list[Any]) -> Node:
        return self.add("CLIPTextEncode", text=text, clip=clip)

    def sampler(self, **wires: Any) -> Node:
        return self.add("KSampler", seed=7, steps=20, cfg=7.0, sampler_name="euler", scheduler="normal", **wires)


def every_task(g: Example) -> None:
    picture = g.picture()
    for task in ("depth", "normal", "mask"):
        g.perceive(g.model(task), picture)
    for task in ("segmentation", "albedo"):
        g.at(3, g.perceive(g.model(task), picture))


def one_depth(g: Example) -> None:
    picture = g.picture()
    seen = g.perceive(g.model("depth"), picture)
    g.save(g.depth(seen), "depth")


def one_normal(g: Example) -> None:
    picture = g.picture()
    seen = g.perceive(g.model("normal"), picture)
    g.save(seen[1], "normal_controlnet")
    opengl = g.add("DiffusionPerceptionNormalToImage", map=seen, convention="controlnet_bae", axes="opengl")
    g.save(opengl, "normal_opengl")


def tasks_at_once(g: Example) -> None:
    picture = g.picture()
    first, *further = (g.model(task) for task in ("depth", "normal", "segmentation", "albedo"))
    others = {f"perception_{number}": perception for number, perception in enumerate(further, 2)}
    seen = g.add("DiffusionPerceptionPerceiveTasks", perception=first, image=picture, **others)
    rows = g.stitch(seen[4], seen[5]), g.stitch(seen[6], seen[7])
    g.save(g.stitch(*rows, direction="down"), "tasks")


def cutout(g: Example) -> None:
    picture, background = g.picture(PERSON), g.at(1, g.picture(BEDROOM))
    seen = g.perceive(g.model("mask"), picture)
    cut = g.add("DiffusionPerceptionMatteCutout", image=picture, map=seen, estimate_foreground=True)
    g.save(cut[0], "cutout")
    over = g.add(
        "ImageCompositeMasked", destination=background, source=cut[2], mask=cut[1], x=0, y=0, resize_source=True
    )
    g.save(over, "composite")


def raw_maps(g: Example) -> None:
    picture = g.picture()
    depth, normal = (g.perceive(g.model(task), picture) for task in ("depth", "normal"))
    g.add(
        "DiffusionPerceptionSaveLayers",
        filename_prefix="perception/layers", image=picture, map_1=depth, map_2=normal,
    )  # fmt: skip
    g.save_map(depth, "depth", "exr32")
    g.save_map(depth, "depth", "png16")


def relit(g: Example) -> None:
    picture = g.picture()
    normal, depth = (g.perceive(g.model(task), picture) for task in ("normal", "depth"))
    evening = g.add(
        "DiffusionPerceptionRelight",
        image=picture, map=normal, azimuth=-70.0, elevation=15.0, colour="#ffb060", intensity=1.6, ambient=0.3,
    )  # fmt: skip
    lamp = g.add(
        "DiffusionPerceptionRelight",
        image=picture, map=normal, light="point", colour="#80b0ff", intensity=1.5, ambient=0.15, x=0.6, y=0.3,
        distance=2.2, depth=depth,
    )  # fmt: skip
    g.save(evening, "relit_evening")
    g.save(lamp, "relit_lamp")


def foggy(g: Example) -> None:
    picture = g.picture()
    depth = g.perceive(g.model("depth"), picture)
    fog = g.add("DiffusionPerceptionFog", image=picture, map=depth, density=0.3, start=2.0)
    g.save(fog, "fog")
    g.add("DiffusionPerceptionPreviewMap", map=depth)


def in_space(g: Example) -> None:
    picture = g.picture()
    depth = g.perceive(g.model("depth"), picture)
    mesh = g.add("DiffusionPerceptionDepthToMesh", map=depth, image=picture)
    g.add("Preview3D", model_file=mesh)
    g.save(depth[1], "depth_in_3d")


def batch(g: Example) -> None:
    rooms = g.add("ImageBatch", image1=g.picture(ROOM), image2=g.picture(BEDROOM))
    pictures = g.add("ImageBatch", image1=rooms, image2=g.at(1, g.picture(PERSON)))
    seen = g.perceive(g.model("depth"), pictures, batch_size=1)
    g.save(g.depth(seen, scope="per batch"), "batch")


def video(g: Example) -> None:
    picture, frames = g.picture(), None
    for number in range(PANNED):
        frame = g.at(1, g.add("ImageCrop", image=picture, width=512, height=384, x=24 * number, y=96))
        frames = frame if frames is None else g.at(2, g.add("ImageBatch", image1=frames, image2=frame))
    seen = g.perceive(g.model("depth"), frames, blend=0.5)
    steady = g.add("DiffusionPerceptionSteadyDepth", map=seen)
    g.add("SaveVideo", video=g.add("CreateVideo", images=steady[1], fps=12.0), filename_prefix="perception/video")


PANNED = 4
"""Frames of a camera that is moved over a picture."""


def large(g: Example) -> None:
    picture = g.add("ImageScaleBy", image=g.picture(), upscale_method="lanczos", scale_by=2.0)
    model = g.model("depth")
    once, tiled = g.perceive(model, picture), g.perceive(model, picture, tile=512)
    g.save(g.stitch(once[1], tiled[1]), "large")


def own_file(g: Example) -> None:
    picture = g.picture()
    seen = g.perceive(g.model("as trained"), picture)
    g.save(seen[1], "own")
    g.save_map(seen, "own", "npy")


def other_packs(g: Example) -> None:
    picture = g.picture()
    depth, normal = (g.perceive(g.model(task), picture) for task in ("depth", "normal"))
    # their IMAGE outputs: what nodes of other packs give too
    coloured = g.depth(depth[1], mode="percentile", colormap="spectral")
    g.save(coloured, "other_depth")
    turned = g.add("DiffusionPerceptionNormalToImage", map=normal[1], convention="controlnet_bae", axes="directx")
    g.save(turned, "other_normal")
    # a picture's 256 steps would show in its normals
    normal = g.add("DiffusionPerceptionDepthToNormal", map=depth[1], convention="near is white", smoothing=6)
    g.save(normal[1], "normal_of_depth")


def comparison(g: Example) -> None:
    picture = g.picture()
    full, light = (g.perceive(g.model("depth", decoder=decoder), picture) for decoder in ("full", "light"))
    pictures = g.depth(full), g.depth(light)
    g.save(g.stitch(*pictures), "compared")
    g.save(g.blend(*pictures, mode="difference"), "difference")


def lotus(g: Example) -> None:
    picture, perception = g.picture(), g.model("depth", LOTUS)
    seen = g.perceive(perception, picture, vae=g.add("VAELoader", vae_name=VAE))
    g.save(g.depth(seen), "lotus")


def pose(g: Example) -> None:
    picture = g.picture(PERSON)
    seen = g.add("DiffusionPerceptionPerceivePose", perception=g.model("keypoints", POSE), image=picture)
    read = g.add("DiffusionPerceptionPoseFromMap", map=seen)
    g.save(read[1], "pose")
    g.add("PreviewAny", source=read[0])
    g.save(g.blend(picture, read[1], "screen"), "pose_over_picture")


def recolouring(g: Example) -> None:
    picture = g.picture()
    parts = g.add("DiffusionPerceptionPerceiveIntrinsics", perception=g.model("albedo", LIGHTING), image=picture)
    albedo, shading = parts[5], parts[6]
    rooms = g.perceive(g.model("segmentation"), picture)
    walls = g.add("DiffusionPerceptionSegmentationToImage", map=rooms, convention="colours of rooms", classes="wall")
    paint = g.at(1, g.add("EmptyImage", width=64, height=64, batch_size=1, color=0x5AA0C8))
    painted = g.add(
        "ImageCompositeMasked", destination=albedo, source=g.blend(albedo, paint, "multiply"), mask=walls[1],
        x=0, y=0, resize_source=False,
    )  # fmt: skip
    # both pictures are to the power 1 / 2.2, and so is their product: it is that of linear light
    g.save(g.blend(painted, shading, "multiply"), "recoloured")


def adapted_photograph(g: Example) -> None:
    picture, checkpoint = g.at(0, g.picture()), g.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    empty = g.prompt("", checkpoint[1])
    seen = g.perceive(adapted(g, checkpoint, DEPTH_ADAPTER, empty), picture)
    g.save(g.depth(seen), "adapter")


def adapted(g: Example, checkpoint: Node, adapter: str, conditioning: Node) -> Node:
    """The loaded checkpoint, perceiving."""
    return g.add(
        "DiffusionPerceptionApplyAdapter",
        model=checkpoint[0], vae=checkpoint[2], adapter=adapter, task="as trained", conditioning=conditioning,
    )  # fmt: skip


def guided(g: Example, checkpoint: Node, latent: Node, texts: tuple[Node, Node], control: str, hint: Any) -> Node:
    """A picture that follows another one's map by a ControlNet."""
    net = g.add("ControlNetLoader", control_net_name=CONTROLNETS[control])
    applied = g.add(
        "ControlNetApplyAdvanced", positive=texts[0], negative=texts[1], control_net=net, image=hint,
        strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    drawn = g.sampler(model=checkpoint[0], positive=applied[0], negative=applied[1], latent_image=latent)
    return g.add("VAEDecode", samples=drawn, vae=checkpoint[2])


def depth_for_controlnet(g: Example) -> None:
    picture, perception = g.picture(), g.model("depth")
    checkpoint = g.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    texts = g.prompt("the same room under water, fish, corals, sunbeams", checkpoint[1]), g.prompt("", checkpoint[1])
    latent = g.add("EmptyLatentImage", width=768, height=576, batch_size=1)
    depth = g.depth(g.perceive(perception, picture))
    g.save(guided(g, checkpoint, latent, texts, "depth", depth), "room_by_depth")


class Drawn(NamedTuple):
    """A picture that was just made."""

    checkpoint: Node
    latent: Node
    image: Node
    empty: Node
    """The empty prompt."""


Seen = Callable[[Example, Drawn], Any]
"""What a ControlNet is given to see of it."""


def generation(first: str, second: str, control: str, seen: Seen) -> Callable[[Example], None]:
    """A picture is made, something is seen in it, and a second picture is made that has it too."""

    def make(g: Example) -> None:
        checkpoint = g.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
        positive, negative = g.prompt(first, checkpoint[1]), g.prompt("", checkpoint[1])
        size = g.add("EmptyLatentImage", width=512, height=512, batch_size=1)
        latent = g.sampler(model=checkpoint[0], positive=positive, negative=negative, latent_image=size)
        image = g.add("VAEDecode", samples=latent, vae=checkpoint[2])
        hint = seen(g, Drawn(checkpoint, latent, image, negative))
        g.save(image, "first")
        g.save(hint, control)
        again = g.prompt(second, checkpoint[1])
        g.save(guided(g, checkpoint, size, (again, negative), control, hint), "second")

    return make


def _by_adapter(adapter: str) -> Seen:
    """By the model that made the latent, in the latent."""

    def seen(g: Example, drawn: Drawn) -> Any:
        perception = adapted(g, drawn.checkpoint, adapter, drawn.empty)
        return g.add("DiffusionPerceptionPerceiveLatent", perception=perception, latent=drawn.latent)[1]

    return seen


def _pose_seen(g: Example, drawn: Drawn) -> Any:
    """SDPose reads pictures."""
    return g.add("DiffusionPerceptionPerceivePose", perception=g.model("keypoints", POSE), image=drawn.image)[1]


def _segmentation_seen(g: Example, drawn: Drawn) -> Any:
    """In the colours that the ControlNet learnt."""
    seen = g.perceive(g.model("segmentation"), drawn.image)
    return g.add("DiffusionPerceptionSegmentationToImage", map=seen, colours="ade20k, by name")


CORNER = "a reading corner by a window, an armchair, a floor lamp, books"
depth_of_generation = generation(
    CORNER, "the same corner in winter, moss and snow on everything, stone furniture", "depth",
    _by_adapter(DEPTH_ADAPTER),
)  # fmt: skip
normal_of_generation = generation(
    "a marble bust on a pedestal in a museum", "a bust of cracked lava, glowing, in a dark cave", "normal",
    _by_adapter(NORMAL_ADAPTER),
)  # fmt: skip
pose_of_generation = generation(
    "a dancer on a stage, full body", "an astronaut on the moon, full body", "pose", _pose_seen
)
segmentation_of_generation = generation(
    CORNER, "the same corner as a cabin of a space ship", "segmentation", _segmentation_seen
)
