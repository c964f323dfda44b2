"""DepthToImage, NormalToImage, SegmentationToImage and MaskFromMap: maps into what other nodes read."""

from __future__ import annotations

from comfy_api.latest import io

from ..core.display.legend import legend
from ..core.display.picture import (
    CLASS_MEANINGS,
    DEPTH_COLOURS,
    DEPTH_MEANINGS,
    DEPTH_MODES,
    DIRECTIONS,
    LEVEL_MEANINGS,
    NORMAL_MEANINGS,
    PICTURE_AXES,
    choose,
    classes_of,
    depth_picture,
    normal_picture,
    palette_of,
)
from ..core.display.segmentation import COLOURS
from ..core.display.selection import LEVEL_MODES, Selection, select, selectors
from ..core.tasks import tasks_where
from . import host
from .normals import normals_in
from .notes import note, shown, telling
from .schema import ADVANCED, found_by
from .sockets import GEOMETRIES, Given, convention_input, doubt, map_input, read

SCOPES = {"per image": False, "per batch": True}
"""Of what is stretched by one range: whether it is the whole batch."""
MASK_MEANINGS = {**LEVEL_MEANINGS, **CLASS_MEANINGS, **DEPTH_MEANINGS}


def _classes_input(tooltip: str, label: str = "classes") -> io.String.Input:
    return io.String.Input("classes", display_name=label, default="", tooltip=tooltip)


def _direction_input() -> io.Combo.Input:
    """The last input of a node: saved workflows hold widgets by their order."""
    return io.Combo.Input(
        "direction",
        options=list(DIRECTIONS),
        default="as the mode says",
        optional=True,
        tooltip="Which end is white, whatever the mode: depth ControlNets want near is white. As the mode says: "
        "controlnet makes near white, the others leave it as the map has it. Before invert.",
    )


class DepthToImage(io.ComfyNode):
    """A node: depth or disparity -> picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionDepthToImage",
            display_name="Render Depth",
            category="perception",
            **found_by(
                "depth map, depth image, depth colormap, normalize depth, invert depth, depth to image, moge, depth "
                "anything"
            ),
            description="Shows a depth or disparity that Perceive estimated: near is white, as depth ControlNets "
            "expect, or as you choose. A photo goes into Perceive.",
            inputs=[
                map_input("A depth or disparity from Perceive, a depth picture, or geometry.", *GEOMETRIES),
                convention_input(DEPTH_MEANINGS, "near is white"),
                io.Combo.Input(
                    "mode",
                    options=list(DEPTH_MODES),
                    default="controlnet",
                    tooltip="controlnet: near is white (metric depth as 1/z, other depth as 1 - d, disparity as is), "
                    "then min-max. min-max and percentile stretch the values as they are. raw changes nothing.",
                ),
                io.Combo.Input(
                    "scope",
                    options=list(SCOPES),
                    default="per image",
                    tooltip="Stretch every image by itself, or all by one range, so that a video does not flicker.",
                ),
                io.Float.Input(
                    "low_percentile",
                    default=2.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Mode percentile: what lies below becomes black.",
                ),
                io.Float.Input(
                    "high_percentile",
                    default=98.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Mode percentile: what lies above becomes white.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Turn black and white round, before the colormap."),
                io.Combo.Input(
                    "colormap",
                    options=list(DEPTH_COLOURS),
                    default="none",
                    tooltip="Colours for the eye; ControlNets want none. White becomes red in spectral and turbo.",
                ),
                _direction_input(),
            ],
            outputs=[
                io.Image.Output(
                    "image", "image", tooltip="Gray, or the colormap's colours. Unknown pixels look far away."
                ),
                io.String.Output(
                    "conversion", "conversion", tooltip="Which conversion was done, and the range that was stretched."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, convention: str = "", mode: str = "", scope: str = "", colormap: str = "", direction: str = ""
    ) -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        map: Given,
        convention: str,
        mode: str,
        scope: str,
        low_percentile: float,
        high_percentile: float,
        invert: bool,
        colormap: str,
        direction: str = "as the mode says",
    ) -> io.NodeOutput:
        depth = read(map, DEPTH_MEANINGS, convention, *tasks_where(picture="nearness"))
        percentiles = (low_percentile, high_percentile)
        whole = choose(SCOPES, scope, "scope")
        image, said = depth_picture(depth, mode, whole, percentiles, invert, colormap, direction)
        note(said, doubt(map, DEPTH_MEANINGS, convention), warning=False)
        return io.NodeOutput(image.to(host.output_device()), said, ui=shown())


class NormalToImage(io.ComfyNode):
    """A node: normals -> picture, red where its reader expects it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionNormalToImage",
            display_name="Render Normal",
            category="perception",
            **found_by(
                "normal map, normal to image, bae, normalbae, opengl normal, directx normal, flip normal, green channel"
            ),
            description="Shows surface normals in the axes that a ControlNet or a renderer expects.",
            inputs=[
                map_input("Normals from Perceive, a normal picture, or geometry.", *GEOMETRIES),
                convention_input(NORMAL_MEANINGS, "opengl"),
                io.Combo.Input(
                    "axes",
                    options=list(PICTURE_AXES),
                    default="controlnet_bae",
                    tooltip="controlnet_bae: red is left, green is up, blue is front. opengl: red is right. "
                    "directx: red is right, green is down. opencv: right, down, away. raw: the values as they came.",
                ),
                io.Boolean.Input(
                    "renormalise",
                    default=True,
                    tooltip="Bring every normal to length 1; networks predict slightly shorter ones. Not for raw.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", "image", tooltip="(n + 1) / 2 along these axes. Unknown pixels face the camera."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", axes: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, convention: str, axes: str, renormalise: bool) -> io.NodeOutput:
        normals = normals_in(map, convention)
        return io.NodeOutput(normal_picture(normals, axes, renormalise).to(host.output_device()), ui=shown())


class SegmentationToImage(io.ComfyNode):
    """A node: segmentation -> clean palette colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionSegmentationToImage",
            display_name="Render Segmentation",
            category="perception",
            **found_by("segmentation map, segmentation to image, semantic segmentation, ade20k, palette, classes"),
            description="Gives every pixel the colour of its class: of the map's palette, or of ADE20K's for "
            "segmentation ControlNets. Says which classes there are, and masks those that you name.",
            inputs=[
                map_input("A segmentation from Perceive, or a colour map of another pack."),
                convention_input(CLASS_MEANINGS, "colours of ade20k"),
                _classes_input(
                    "For the mask: classes of the map's palette by name or by number from 0: sky, 12. Empty: no mask. "
                    "This node's page of help lists them."
                ),
                io.Combo.Input(
                    "colours",
                    options=list(COLOURS),
                    default=next(iter(COLOURS)),
                    optional=True,
                    tooltip="Segmentation ControlNets read ADE20K's colours. ade20k, by name: those of its classes "
                    "of the same name or meaning, and black where it has none. Only the image and the legend change.",
                ),
            ],
            outputs=[
                io.Image.Output("image", "image", tooltip="Palette colours only, and black."),
                io.Mask.Output("mask", "mask", tooltip="1 where one of the named classes is."),
                io.Mask.Output(
                    "confidence", "confidence", tooltip="1 where one class is certain, 0 half-way between two."
                ),
                io.String.Output(
                    "found", "found", tooltip="Which classes there are and how much of the picture each takes."
                ),
                io.Image.Output(
                    "legend", "legend", tooltip="The colour, name and share of each class there is, for people."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", colours: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, convention: str, classes: str, colours: str = next(iter(COLOURS))) -> io.NodeOutput:
        segmentation = read(map, CLASS_MEANINGS, convention, *tasks_where(picture="classes"))
        palette = palette_of(segmentation)
        found = classes_of(segmentation, palette)
        coloured = choose(COLOURS, colours, "choice of colours")(found)
        pictures = coloured.picture, found.mask(palette.indices(classes)), found.clearness, legend(coloured.entries)
        image, mask, clearness, explained = (picture.to(host.output_device()) for picture in pictures)
        note(found.said(), coloured.said, doubt(map, CLASS_MEANINGS, convention), warning=False)
        return io.NodeOutput(image, mask, clearness, found.said(), explained, ui=shown())


class MaskFromMap(io.ComfyNode):
    """A node: map -> mask of what is selected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionMaskFromMap",
            display_name="Mask from Map",
            category="perception",
            **found_by("mask, depth to mask, depth range, threshold, segmentation to mask, class mask, matting"),
            description="Makes a mask, 1 = selected: of a mask or matte, classes of a segmentation, a range of depth.",
            inputs=[
                map_input(
                    "A mask, matte, segmentation, depth or disparity from Perceive, a picture, or geometry.",
                    io.Mask,
                    *GEOMETRIES,
                ),
                convention_input(MASK_MEANINGS, "white is selected"),
                io.Combo.Input(
                    "mode",
                    display_name="mode of a mask or matte",
                    options=list(LEVEL_MODES),
                    default="soft",
                    tooltip="For masks and mattes only. soft: as predicted. threshold: min-max per image, then 0 or 1. "
                    "matting clamp: min-max per image, then above 0.95 becomes 1 and below 0.1 becomes 0.",
                ),
                io.Float.Input(
                    "threshold",
                    display_name="threshold of a mask or matte",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For masks and mattes only, mode threshold: what does not lie below is selected.",
                    **ADVANCED,
                ),
                _classes_input(
                    "For segmentations only: classes by name or by number from 0, with commas between: sky, 12. The "
                    "help page of Render Segmentation lists them.",
                    "classes of a segmentation",
                ),
                io.Float.Input(
                    "range_from",
                    display_name="depth from",
                    default=0.0,
                    min=-1e6,
                    max=1e6,
                    step=0.01,
                    tooltip="For depth and disparity only: the least value that is selected, in metres where metric. "
                    "0 is near in a depth, far in a disparity.",
                ),
                io.Float.Input(
                    "range_to",
                    display_name="depth to",
                    default=0.5,
                    min=-1e6,
                    max=1e6,
                    step=0.01,
                    tooltip="For depth and disparity only: the largest value that is selected, in metres where metric.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Select the rest instead."),
            ],
            outputs=[io.Mask.Output("mask", "mask", tooltip="1 = selected. Unknown pixels are never selected.")],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", mode: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        map: Given,
        convention: str,
        mode: str,
        threshold: float,
        classes: str,
        range_from: float,
        range_to: float,
        invert: bool,
    ) -> io.NodeOutput:
        selection = Selection(mode, threshold, classes, range_from, range_to, invert)
        mask = select(read(map, MASK_MEANINGS, convention, *selectors()), selection)
        note(doubt(map, MASK_MEANINGS, convention))
        return io.NodeOutput(mask.to(host.output_device()), ui=shown())


NODES = [DepthToImage, NormalToImage, SegmentationToImage, MaskFromMap]
