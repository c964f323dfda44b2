"""Skeletons: names, mirrors and limbs."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_perception.core.recipe import Recipe, from_header, to_header
from diffusion_perception.core.skeletons import COCO, SKELETONS, Skeleton, skeleton_named


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=list(SKELETONS))
def test_a_mirror_twice_is_none(skeleton):
    mirror = skeleton.mirror()
    assert np.array_equal(mirror[mirror], np.arange(len(skeleton)))


def test_sides_change_places_and_the_middle_stays():
    mirror = COCO.mirror()
    assert [COCO.names[mirror[COCO.names.index(name)]] for name in ("nose", "left_knee", "right_ear")] == [
        "nose", "right_knee", "left_ear",
    ]  # fmt: skip


def test_a_mirrored_face_has_its_chin_below_and_its_corners_of_the_eyes_outside():
    whole = SKELETONS["wholebody-133"]
    places = {name: place for place, name in enumerate(whole.names)}
    pairs = {"face_0": "face_16", "face_8": "face_8", "face_30": "face_30", "face_36": "face_45", "face_39": "face_42"}
    for one, other in {**pairs, "face_48": "face_54", "left_thumb3": "right_thumb3", "left_heel": "right_heel"}.items():
        assert whole.names[whole.mirror()[places[one]]] == other


def test_wholebody_has_133_points_and_a_spread_for_each():
    whole = SKELETONS["wholebody-133"]
    assert len(whole) == len(whole.sigmas) == len(set(whole.names)) == 133


def test_names_of_a_recipe_make_a_skeleton_of_their_own():
    horse = skeleton_named("nose, left_ear, right_ear, tail", "nose:left_ear, nose:right_ear")
    assert horse == Skeleton(("nose", "left_ear", "right_ear", "tail"), ((0, 1), (0, 2)))
    assert horse.mirror().tolist() == [0, 2, 1, 3]
    assert skeleton_named(horse.text(), horse.limbs_text()) == horse
    assert skeleton_named(COCO.text(), COCO.limbs_text()) is COCO


def test_a_recipe_of_other_keypoints_travels_in_a_header():
    recipe = Recipe("keypoints", keypoints="L_Eye, R_Eye, Root of tail", limbs="L_Eye:R_Eye", head="vitpose_simple")
    (read,) = from_header(to_header([recipe]), "file")
    assert read == recipe
    assert read.channels == 3
    assert read.convention().skeleton == recipe.skeleton
    assert recipe.skeleton.mirror().tolist() == [1, 0, 2]
    assert Recipe("depth").convention().skeleton is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keypoints": "coco"}, "keypoints='coco' is none of coco-17"),
        ({"keypoints": "nose, nose"}, "'nose' twice"),
        ({"keypoints": "nose, "}, "none of them empty"),
        ({"limbs": "nose:tail"}, "'nose:tail': write two names"),
        ({"limbs": "nose"}, "'nose': write two names"),
    ],
)
def test_a_skeleton_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Recipe("keypoints", **fields)
