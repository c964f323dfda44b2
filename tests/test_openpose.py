"""OpenPose: lists that other packs read, and skeletons as OpenCV draws them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion_perception.core.display.openpose import COLOURS, body, draw, is_human, pose_keypoint, pose_picture
from diffusion_perception.core.display.picture import ready
from diffusion_perception.core.perception_map import Convention, PerceptionMap
from diffusion_perception.core.pose import Person
from diffusion_perception.core.skeletons import COCO, OPENPOSE, SKELETONS, skeleton_named

SIZE = (512, 400)


def someone(skeleton=COCO, seed: int = 0, low: int = 30, unseen: tuple[str, ...] = ()) -> Person:
    random = np.random.default_rng(seed)
    points = random.uniform(low, min(SIZE) - low, (len(skeleton), 2))
    scores = np.array([0.0 if name in unseen else 0.9 for name in skeleton.names])
    return Person(points, scores, 0.9, 10000.0)


def test_cocos_joints_are_openposes_by_their_names():
    one = someone()
    points, known = body(one, COCO)
    assert known.all()
    for name, point in zip(OPENPOSE.names, points):
        if name != "neck":
            assert np.array_equal(point, one.points[COCO.names.index(name)])
    left, right = (one.points[COCO.names.index(f"{side}_shoulder")] for side in ("left", "right"))
    assert np.allclose(points[1], (left + right) / 2)


def test_a_neck_needs_both_shoulders():
    points, known = body(someone(unseen=("left_shoulder", "nose")), COCO)
    assert [name for name, sure in zip(OPENPOSE.names, known) if not sure] == ["nose", "neck", "left_shoulder"]
    assert (points[~known] == 0).all()


def test_openposes_own_skeleton_keeps_its_neck():
    one = someone(OPENPOSE)
    points, _ = body(one, OPENPOSE)
    assert np.array_equal(points, one.points)


@pytest.mark.parametrize("name", ["coco-17", "openpose-18", "wholebody-133"])
def test_poses_have_the_lists_that_other_packs_read(name):
    skeleton = SKELETONS[name]
    people = [[someone(skeleton), someone(skeleton, 1, unseen=("right_knee",))], []]
    full, empty = json.loads(json.dumps(pose_keypoint(people, skeleton, SIZE)))
    assert (full["canvas_height"], full["canvas_width"]) == SIZE
    assert empty == {"people": [], "canvas_height": 512, "canvas_width": 400}
    lengths = {"pose_keypoints_2d": 18, "face_keypoints_2d": 70, "hand_left_keypoints_2d": 21}
    for person in full["people"]:
        assert {key: len(person[key]) // 3 for key in lengths} == lengths
        assert len(person["hand_right_keypoints_2d"]) == 63
        assert set(person["pose_keypoints_2d"][2::3]) <= {0.0, 1.0}
    knee = OPENPOSE.names.index("right_knee")
    assert full["people"][1]["pose_keypoints_2d"][3 * knee : 3 * knee + 3] == [0, 0, 0]
    assert any(full["people"][0]["hand_left_keypoints_2d"]) == any(full["people"][0]["face_keypoints_2d"])
    assert any(full["people"][0]["face_keypoints_2d"]) == (name == "wholebody-133")


WHOLE = SKELETONS["wholebody-133"]


def test_a_face_that_is_half_hidden_keeps_its_box_and_says_how_sure_each_point_is():
    hidden = tuple(f"face_{number}" for number in range(20))
    one = someone(WHOLE, unseen=hidden)
    (pose,) = pose_keypoint([[one]], WHOLE, SIZE)
    face = np.array(pose["people"][0]["face_keypoints_2d"]).reshape(70, 3)
    assert face[:, 2].tolist() == [0.0] * 20 + [1.0] * 50
    points = one.points[[WHOLE.names.index(f"face_{number}") for number in range(68)]]
    assert np.allclose(face[:68, :2], points)
    assert np.allclose(face[68:, :2], one.points[[WHOLE.names.index("right_eye"), WHOLE.names.index("left_eye")]])


def test_a_face_of_which_nothing_but_the_eyes_is_known_is_no_face():
    hidden = tuple(f"face_{number}" for number in range(68))
    for skeleton in (WHOLE, COCO):
        (pose,) = pose_keypoint([[someone(skeleton, unseen=hidden)]], skeleton, SIZE)
        assert not any(pose["people"][0]["face_keypoints_2d"])


def test_points_that_a_skeleton_has_no_name_for_lie_within_its_face():
    few = skeleton_named(", ".join([*COCO.names[5:], "face_8", "face_27"]))
    one = someone(few)
    (pose,) = pose_keypoint([[one]], few, SIZE)
    face = np.array(pose["people"][0]["face_keypoints_2d"]).reshape(70, 3)
    assert face[:, 2].sum() == 2
    assert np.allclose(face[:, :2].min(0), one.points[-2:].min(0))
    assert np.allclose(face[:, :2].max(0), one.points[-2:].max(0))


def test_feet_come_where_the_skeleton_has_them():
    one = someone(WHOLE, unseen=("left_heel",))
    (pose,) = pose_keypoint([[one]], WHOLE, SIZE)
    feet = np.array(pose["people"][0]["foot_keypoints_2d"]).reshape(6, 3)
    assert np.allclose(feet[:2, :2], one.points[17:19])
    assert feet[2].tolist() == [0, 0, 0]
    assert np.allclose(feet[3:, :2], one.points[20:23])
    assert "foot_keypoints_2d" not in pose_keypoint([[someone()]], COCO, SIZE)[0]["people"][0]


def test_animals_go_where_animals_belong():
    animal = SKELETONS["ap10k-17"]
    (pose,) = pose_keypoint([[someone(animal)]], animal, SIZE)
    assert pose["people"] == []
    assert pose["version"] == "ap10k"
    assert len(pose["animals"][0]) == 51
    assert not is_human(animal)


def test_bodies_without_a_place_in_the_format_are_drawn_all_the_same():
    snake = skeleton_named("head, middle, tail", "head:middle, middle:tail")
    one = someone(snake)
    (pose,) = pose_keypoint([[replace(one, scores=np.array([0.9, 0.1, 0.9]))]], snake, SIZE)
    assert pose["people"] == []
    assert pose["keypoint_names"] == ["head", "middle", "tail"]
    head, tail = one.points[0].tolist(), one.points[2].tolist()
    assert pose["bodies"] == [[*head, 1.0, 0.0, 0.0, 0.0, *tail, 1.0]]
    drawn = draw([one], snake, SIZE)
    for number, (x, y) in enumerate(one.points.astype(int)):
        assert (drawn[y, x] * 255).tolist() == list(COLOURS[number])


def test_a_part_of_a_human_body_is_one_too():
    half = skeleton_named(", ".join(name for name in COCO.names if not name.endswith(("hip", "knee", "ankle"))))
    (pose,) = pose_keypoint([[someone(half)]], half, SIZE)
    (person,) = pose["people"]
    known = [name for name, sure in zip(OPENPOSE.names, person["pose_keypoints_2d"][2::3]) if sure]
    assert sorted(known) == sorted([*half.names, "neck"])
    assert not is_human(skeleton_named("nose, left_ear, right_ear"))  # a cat has these as well


def opencv(person: Person) -> np.ndarray:
    """What the preprocessors of openpose ControlNets draw: integer ellipses of half width 4, discs of radius 4."""
    cv2 = pytest.importorskip("cv2")
    canvas = np.zeros((*SIZE, 3), np.uint8)
    points, _ = body(person, COCO)
    for (one, other), colour in zip(OPENPOSE.limbs, COLOURS):
        (x1, y1), (x2, y2) = points[one], points[other]
        length = math.hypot(x1 - x2, y1 - y2)
        angle = math.degrees(math.atan2(y1 - y2, x1 - x2))
        middle = (int((x1 + x2) / 2), int((y1 + y2) / 2))
        outline = cv2.ellipse2Poly(middle, (int(length / 2), 4), int(angle), 0, 360, 1)
        cv2.fillConvexPoly(canvas, outline, [int(level * 0.6) for level in colour])
    for (x, y), colour in zip(points, COLOURS):
        cv2.circle(canvas, (int(x), int(y)), 4, colour, thickness=-1)
    return canvas


def test_skeletons_are_drawn_as_opencv_does():
    one = someone()
    expected = opencv(one)
    found = (draw([one], COCO, SIZE, radius=4.0) * 255).round().byte().numpy()
    both = (found > 0).any(-1) & (expected > 0).any(-1)
    either = (found > 0).any(-1) | (expected > 0).any(-1)
    assert both.sum() / either.sum() > 0.85  # OpenCV rounds to whole pixels and degrees, and fills the outline too
    assert (found == expected).all(-1)[both].mean() > 0.97


def test_joints_lie_over_limbs_and_later_people_over_earlier_ones():
    one = someone()
    drawn = (draw([someone(seed=1), one], COCO, SIZE) * 255).round()
    points, _ = body(one, COCO)
    x, y = points[-1].astype(int)
    assert drawn[y, x].tolist() == list(COLOURS[17])


def test_what_lies_beyond_the_border_is_cut_off():
    one = someone(low=-60)
    drawn = draw([one], COCO, (40, 50))
    assert drawn.shape == (40, 50, 3)
    assert drawn.isfinite().all()


def test_nobody_is_a_black_picture():
    assert draw([], COCO, (20, 30)).max() == 0


def test_the_default_picture_of_keypoints_is_their_skeleton():
    values = torch.zeros(2, 64, 48, 17)
    values[0, 20, 10:12] = 1
    image, mask = ready(PerceptionMap("keypoints", values, Convention(high=None, skeleton=COCO)))
    assert image.shape == (2, 64, 48, 3)
    assert image[0].max() > 0
    assert image[1].max() == 0
    assert mask.shape == (2, 64, 48)


def test_a_larger_picture_has_thicker_limbs():
    values = torch.zeros(1, 1024, 1024, 17)
    values[0, 500, 500] = 1
    seen = PerceptionMap("keypoints", values, Convention(high=None, skeleton=COCO))
    thick, thin = (float((pose_picture(seen, radius=radius)[0] > 0).any(-1).sum()) for radius in (0.0, 4.0))
    assert thick == pytest.approx(4 * thin, rel=0.1)
