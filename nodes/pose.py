"""PerceivePose and PoseFromMap: people in boxes -> their keypoints -> poses and skeletons for ControlNet."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..core.crops import CORNERS, PADDING, boxes_of_mask, read_boxes
from ..core.display.openpose import pose_keypoint, pose_picture
from ..core.display.picture import as_rgb, checked_image, choose, not_empty, ready_picture
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.pipeline import Perceiver
from ..core.pose import SAME, SEEN, passes_of_people, predict_people
from ..core.tasks import tasks_where
from . import host
from .notes import telling
from .perceive import precision_input, prepared, vae_input
from .preview import previewed
from .schema import ADVANCED, found_by
from .sockets import Perception, PerceptionMapSocket, taken

BoundingBox = io.Custom("BOUNDING_BOX")
PoseKeypoint = io.Custom("POSE_KEYPOINT")


class PerceivePose(io.ComfyNode):
    """A node: people in an image -> their heatmaps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionPerceivePose",
            display_name="Perceive Pose",
            category="perception",
            **found_by(
                "pose, openpose, keypoints, pose estimation, dwpose, skeleton, human pose, animal pose, preprocessor"
            ),
            description="Predicts the keypoints of every person: in boxes of any detector, in the parts of a mask, or "
            "in the whole image. Shows them.",
            inputs=[
                Perception.Input("perception", tooltip="A model of keypoints, from Load Perception Model."),
                io.Image.Input("image", tooltip="One image or a batch; any size from 16 pixels up."),
                io.MultiType.Input(
                    "boxes",
                    types=[BoundingBox, io.BBOX],
                    optional=True,
                    tooltip="Where people are, in pixels: a list for each image, the last one for all further images "
                    "too. An empty list is nobody; without boxes and mask the whole image is one person.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Instead of boxes: every connected part is one person. Perceive gives such a mask.",
                ),
                vae_input(),
                io.Combo.Input(
                    "box_format",
                    options=list(CORNERS),
                    default=next(iter(CORNERS)),
                    tooltip="What the four numbers of a box are, where it does not name them.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "padding",
                    default=PADDING,
                    min=1.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How much larger than its box a person is looked at; models are trained at 1.25. SDPose "
                    "takes boxes as they are.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "flip_test",
                    default=False,
                    tooltip="Look at the mirror image too and take the mean: a little better, twice the time.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="People per pass of the networks.",
                    **ADVANCED,
                ),
                precision_input(),
            ],
            outputs=[
                PerceptionMapSocket.Output(
                    display_name="map", tooltip="Heatmaps of every person, for Render Skeleton."
                ),
                io.Image.Output(
                    display_name="skeletons", tooltip="A picture that is ready for an openpose ControlNet."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, box_format: str = "", vae_precision: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        perception: Perceiver,
        image: Tensor,
        box_format: str,
        padding: float,
        flip_test: bool,
        batch_size: int,
        boxes: Any = None,
        mask: Tensor | None = None,
        vae: Any = None,
        vae_precision: str = host.FULL_PRECISION,
    ) -> io.NodeOutput:
        corners = choose(CORNERS, box_format, "box_format")
        perceiver = prepared(perception, vae, vae_precision)
        pictures = as_rgb(checked_image(image)).movedim(-1, 1)
        size = (pictures.shape[-2], pictures.shape[-1])
        if boxes is not None and mask is not None:
            raise UserError("Boxes and a mask both say where people are: connect one of them.")
        if mask is not None:
            found = [boxes_of_mask(part, size) for part in _masks_of(mask, len(pictures))]
        elif boxes is not None:
            found = read_boxes(boxes, len(pictures), corners)
        else:
            found = None
        people = len(pictures) if found is None else sum(map(len, found))
        tick = host.ticker(passes_of_people(people, batch_size, flip_test))
        seen = predict_people(
            perceiver, pictures, found, padding=padding, flip_test=flip_test, batch_size=batch_size, tick=tick
        )
        skeletons = ready_picture(seen)
        return io.NodeOutput(seen, skeletons.to(host.output_device()), ui=previewed(cls, skeletons))


def _masks_of(mask: Tensor, count: int) -> Tensor:
    """(B, H, W): one for each image, or one for all. UserError for another number."""
    masks = checked_image(mask)[..., 0]
    if len(masks) not in (1, count):
        raise UserError(f"{len(masks)} masks came for {count} images: give one for all, or one for each.")
    return masks.expand(count, -1, -1)


class PoseFromMap(io.ComfyNode):
    """A node: heatmaps -> poses."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionPoseFromMap",
            display_name="Render Skeleton",
            category="perception",
            **found_by("openpose, keypoints, pose keypoint, skeleton"),
            description="Reads keypoints from heatmaps: POSE_KEYPOINT for other packs, and a skeleton for ControlNet. "
            "Skeletons of other bodies than people and animals are drawn, but POSE_KEYPOINT has no place for them.",
            inputs=[
                PerceptionMapSocket.Input("map", tooltip="Keypoints from Perceive Pose, or from Perceive."),
                io.Float.Input(
                    "threshold",
                    default=SEEN,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Keypoints of which the model is less sure are left out.",
                ),
                io.Float.Input(
                    "same_person",
                    default=SAME,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Of two people whose similarity (OKS) is above this only the surer one stays. 1 keeps all.",
                ),
                io.Float.Input(
                    "joint_radius",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Of the drawing, in pixels. 0: 4 in a picture of 512 pixels, as openpose ControlNets "
                    "learnt, and in proportion in others.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output(
                    "pose_keypoint",
                    "pose_keypoint",
                    tooltip="OpenPose's 18 joints, hands, face and feet, in pixels; animals of AP-10K's 17. Other "
                    "skeletons have no place in it, and nobody is in it then: take the image.",
                ),
                io.Image.Output(
                    "image",
                    "image",
                    tooltip="Skeletons on black: people in OpenPose's colours, others with the limbs of their recipe.",
                ),
            ],
        )

    @classmethod
    @telling
    def execute(cls, map: PerceptionMap, threshold: float, same_person: float, joint_radius: float) -> io.NodeOutput:
        heatmaps = taken(map, *tasks_where(picture="skeletons"))
        heatmaps = heatmaps if heatmaps.crops else not_empty(heatmaps)  # crops of nobody are none
        picture, people = pose_picture(heatmaps, threshold, same_person, joint_radius)
        skeleton = heatmaps.convention.skeleton
        assert skeleton is not None  # or there would be no picture
        size = (picture.shape[1], picture.shape[2])
        poses = pose_keypoint(people, skeleton, size, threshold)
        return io.NodeOutput(poses, picture.to(host.output_device()), ui={"openpose_json": [json.dumps(poses)]})


NODES = [PerceivePose, PoseFromMap]
