"""A published checkpoint is recognised by what lies around its weights, and run as its authors ran it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffusion_perception.core.checkpoints.architecture import UNetArchitecture
from diffusion_perception.core.checkpoints.clues import Clues
from diffusion_perception.core.checkpoints.families import FAMILIES, Family, family_named, recipe_for, recognise
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS

SD2 = UNetArchitecture(4, 4, (320, 640, 1280, 1280), 2, (True, True, True, False), (5, 10, 20, 20), 1024, True)
WIDE = replace(SD2, in_channels=8)
GENPERCEPT_INDEX = {"_class_name": "GenPerceptPipeline", "_diffusers_version": "0.24.0"}
MARIGOLD_INDEX = {
    "_class_name": "MarigoldDepthPipeline",
    "prediction_type": "depth",
    "scale_invariant": True,
    "shift_invariant": True,
    "default_denoising_steps": 4,
    "default_processing_resolution": 768,
}
MARIGOLD_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "thresholding": False,
    "trained_betas": None,
}
MARIGOLD = Clues(WIDE, "unet", "marigold-depth-v1-1", MARIGOLD_INDEX, MARIGOLD_SCHEDULER)

PUBLISHED = {
    "unet_depth_v2": ("genpercept", "depth"),
    "unet_disparity_v2": ("genpercept", "disparity"),
    "unet_normal_v2": ("genpercept", "normal"),
    "unet_dis_v2": ("genpercept", "mask"),
    "unet_matting_v2": ("genpercept", "matte"),
    "unet_seg_v2": ("genpercept", "segmentation"),
    "unet_depth_v1": ("genpercept-v1", "depth"),
    "unet_normal_v1": ("genpercept-v1", "normal"),
    "unet_dis_v1": ("genpercept-v1", "mask"),
    "unet_matting_v1": ("genpercept-v1", "matte"),
}
"""Folders of the repositories guangkaixu/genpercept-* and of v1."""


@pytest.mark.parametrize("folder", PUBLISHED)
def test_every_published_folder_of_genpercept_is_recognised_with_its_task(folder):
    clues = Clues(SD2, folder, "genpercept-models", GENPERCEPT_INDEX)
    family, task = PUBLISHED[folder]
    assert recognise(clues) is FAMILIES[family]
    assert clues.task == task
    assert recognise(Clues(SD2, folder)) is FAMILIES[family]  # alone in the model folder, too


def test_the_head_variant_is_recognised_by_its_head():
    clues = Clues(SD2, "unet_disparity_dpt_head_v2", "genpercept-models", head="dpt_head_identity")
    family = recognise(clues)
    assert family is FAMILIES["genpercept-dpt"]
    recipe = recipe_for(family, clues, "")
    assert (recipe.task, recipe.head, recipe.codec) == ("disparity", "dpt_head_identity", "min-max")


def test_a_schedule_without_signal_is_genpercepts_own():
    clues = Clues(SD2, "unet", "mine", scheduler={"beta_start": 1.0, "beta_end": 1.0})
    assert recognise(clues) is FAMILIES["genpercept"]


PLAIN = [
    Clues(SD2, "unet", "stable-diffusion-2-1", {"_class_name": "StableDiffusionPipeline"}, MARIGOLD_SCHEDULER),
    Clues(WIDE, "unet", "instruct-pix2pix", {"_class_name": "StableDiffusionInstructPix2PixPipeline"}),
    Clues(replace(SD2, in_channels=9), "unet_depth_v2"),
    Clues(replace(SD2, vector_dim=6), "unet_depth_v2"),
    Clues(WIDE, "unet_depth_v2"),
    Clues(SD2, "unet", "x", {"_class_name": "MarigoldDepthPipeline"}),
]


@pytest.mark.parametrize("clues", PLAIN, ids=lambda clues: f"{clues.repository}/{clues.folder} {clues.pipeline}")
def test_what_is_of_no_known_family_is_not_taken_for_one(clues):
    assert recognise(clues) is None


def test_genpercept_v2_is_run_as_its_authors_run_it():
    recipe = recipe_for(family_named("genpercept"), Clues(SD2, "unet_depth_v2"), "")
    assert recipe == Recipe(
        "depth", family="genpercept", base="sd21", paradigm="one-step", timestep=1, beta_start=1.0, beta_end=1.0,
        prediction_type="v_prediction", tokens=2, resolution=768, resize="genpercept",
    )  # fmt: skip


def test_genpercept_v1_is_run_as_its_authors_ran_it():
    """77 tokens, Pillow's resize, depth stretched per image, masks not interpolated."""
    seen = {
        folder: recipe_for(family_named("genpercept-v1"), Clues(SD2, folder), "")
        for folder in PUBLISHED
        if folder.endswith("_v1")
    }
    assert {recipe.tokens for recipe in seen.values()} == {0}
    assert seen["unet_depth_v1"].codec == "late-min-max"
    assert seen["unet_depth_v1"].resize == seen["unet_normal_v1"].resize == "genpercept-v1"
    assert seen["unet_dis_v1"].resize == "genpercept-v1-nearest"


def test_normals_of_genpercept_point_left_up_and_back():
    assert recipe_for(family_named("genpercept"), Clues(SD2, "unet_normal_v2"), "").axes == ("left", "up", "back")


def test_marigold_v1_1_is_run_as_its_configs_say():
    assert recognise(MARIGOLD) is FAMILIES["marigold"]
    assert recipe_for(FAMILIES["marigold"], MARIGOLD, "") == Recipe(
        "depth", family="marigold", base="sd21", paradigm="stochastic", steps=4, beta_start=0.00085, beta_end=0.012,
        zero_snr=True, spacing="trailing", steps_offset=1, final_alpha_one=False, prediction_type="v_prediction",
        final="previous", tokens=2, resolution=768, resize="marigold", licence="RAIL++-M",
    )  # fmt: skip


def test_marigold_v1_0_differs_in_its_schedule():
    scheduler = {**MARIGOLD_SCHEDULER, "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    recipe = recipe_for(FAMILIES["marigold"], replace(MARIGOLD, scheduler=scheduler), "")
    assert (recipe.zero_snr, recipe.spacing) == (False, "leading")


NOISY = "marigold_wo_rgb_blending_"


@pytest.mark.parametrize(
    ("name", "scheduler", "betas"),
    [
        (NOISY, {}, (0.00085, 0.012)),
        (f"{NOISY}0point00340_0point048", {}, (0.0034, 0.048)),
        (f"{NOISY}0point05440_0point768", {}, (0.544, 0.768)),  # the folder's name is wrong by a factor of ten
        (f"{NOISY}1point0_1point0", {}, (1.0, 1.0)),
        (f"{NOISY}1point0_1point0", {"beta_start": 0.136, "beta_end": 0.192}, (0.136, 0.192)),
    ],
)
def test_genpercept_from_noise_is_run_as_its_authors_run_it(name, scheduler, betas):
    """Ten leading steps, the last one's sample, pictures resized as bytes, members aligned at edge 50."""
    clues = Clues(WIDE, "unet", name, scheduler=scheduler)
    family = recognise(clues)
    assert family is FAMILIES["genpercept-stochastic"]
    recipe = recipe_for(family, clues, "depth")
    assert (recipe.beta_start, recipe.beta_end) == betas
    assert recipe == Recipe(
        "depth", family="genpercept-stochastic", base="sd21", paradigm="stochastic", steps=10, beta_start=betas[0],
        beta_end=betas[1], spacing="leading", steps_offset=1, prediction_type="v_prediction", final="sample",
        tokens=2, resolution=768, resize="genpercept", ensemble_edge=50,
    )  # fmt: skip


@pytest.mark.parametrize(("full", "codec"), [(True, "unit-vector"), (False, "half-sphere"), (None, "unit-vector")])
def test_normals_of_marigold_say_which_half_of_z_they_use(full, codec):
    index = {**MARIGOLD_INDEX, "_class_name": "MarigoldNormalsPipeline", "prediction_type": "normals"}
    if full is not None:
        index["use_full_z_range"] = full
    recipe = recipe_for(FAMILIES["marigold"], replace(MARIGOLD, index=index), "")
    assert (recipe.task, recipe.codec, recipe.axes) == ("normal", codec, ("right", "up", "back"))


@pytest.mark.parametrize(("stated", "resolution"), [(0, 0), (None, 768), (640, 640)])
def test_a_native_processing_resolution_is_not_taken_for_none(stated, resolution):
    index = {**MARIGOLD_INDEX, "default_processing_resolution": stated}
    assert recipe_for(FAMILIES["marigold"], replace(MARIGOLD, index=index), "").resolution == resolution


UNRUNNABLE = [
    ("scheduler", "_class_name", "EulerDiscreteScheduler"),
    ("scheduler", "beta_schedule", "linear"),
    ("scheduler", "num_train_timesteps", 500),
    ("scheduler", "clip_sample", True),
    ("scheduler", "thresholding", True),
    ("scheduler", "trained_betas", [0.1]),
    ("index", "scale_invariant", False),
]


@pytest.mark.parametrize(("config", "key", "value"), UNRUNNABLE)
def test_a_marigold_that_no_recipe_can_express_is_refused(config, key, value):
    clues = replace(MARIGOLD, **{config: {**getattr(MARIGOLD, config), key: value}})
    with pytest.raises(ValueError, match=f"its {config} says {key}="):
        recipe_for(FAMILIES["marigold"], clues, "")


def test_an_unknown_spacing_is_refused():
    clues = replace(MARIGOLD, scheduler={**MARIGOLD_SCHEDULER, "timestep_spacing": "linspace"})
    with pytest.raises(ValueError, match="spacing='linspace' is not one of 'leading', 'trailing'"):
        recipe_for(FAMILIES["marigold"], clues, "")


# Which task


def test_a_task_that_nothing_states_must_be_named():
    clues = Clues(SD2, "unet", "my-model", GENPERCEPT_INDEX)
    with pytest.raises(ValueError, match="nothing in it says its task: name one of depth, disparity"):
        recipe_for(FAMILIES["genpercept"], clues, "")
    assert recipe_for(FAMILIES["genpercept"], clues, "albedo").task == "albedo"


def test_the_repository_says_the_task_where_nothing_else_does():
    clues = Clues(SD2, "unet", "my-matting-model", GENPERCEPT_INDEX)
    assert recipe_for(FAMILIES["genpercept"], clues, "").task == "matte"


def test_a_person_knows_better_than_the_name_of_a_repository():
    clues = Clues(SD2, "unet", "normal-people", GENPERCEPT_INDEX)
    assert recipe_for(FAMILIES["genpercept"], clues, "depth").task == "depth"


def test_another_task_than_the_checkpoint_states_is_refused():
    with pytest.raises(ValueError, match="it was trained for mask, not for depth"):
        recipe_for(FAMILIES["genpercept"], Clues(SD2, "unet_dis_v2"), "depth")
    with pytest.raises(ValueError, match="it was trained for depth, not for normal"):
        recipe_for(FAMILIES["marigold"], MARIGOLD, "normal")


# The table


ANSWERS = {
    "marigold-intrinsics": ("albedo", "material", "roughness", "metallic"),
    "rgb-x": ("albedo", "normal", "roughness", "metallic", "irradiance"),
    "sdpose": ("keypoints",),
    "depthmaster": ("disparity",),
    "intrinsic-lora": ("depth", "normal", "albedo", "shading"),
}
"""{family: its tasks}, of those that do not learn whatever they are taught."""
HEAD = {"final_layer.weight": (17, 320, 1, 1)}
"""Shapes of a head, as far as a family looks at them."""


def network_of(family: Family) -> UNetArchitecture:
    """One that it runs."""
    several = {} if family.channels else {"out_channels": 8}
    given = {"in_channels": family.channels or 12, "vector_dim": family.vector_dim, "fourier": family.fourier}
    return replace(SD2, **several, **given)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_family_gives_a_recipe_for_every_task_of_its(family):
    clues = Clues(network_of(family), "unet", "x", head="dpt_head_identity", head_shapes=HEAD)
    for task in ANSWERS.get(family.name, TASKS):
        recipe = recipe_for(family, clues, task)
        assert (recipe.task, recipe.family) == (task, family.name), "say in ANSWERS which tasks are its"
        assert recipe.convention() is not None
    for task in set(TASKS) - set(ANSWERS.get(family.name, TASKS)) - set(family.instead):
        with pytest.raises(ValueError, match=f"trained for .*, not for {task}"):
            recipe_for(family, clues, task)


def test_genpercept_v2_comes_before_its_head_variant_and_that_before_v1():
    preferred = sorted(FAMILIES.values(), key=lambda family: -family.preference)
    assert [family.name for family in preferred[:3]] == ["genpercept", "genpercept-dpt", "genpercept-v1"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_with_other_channels_is_refused(family):
    clues = Clues(replace(SD2, in_channels=9), "unet", head="dpt_head_identity")
    wanted = "(4|8|12 or more)( and a (class embedding|Fourier block))?"
    with pytest.raises(ValueError, match=f"its UNet has 9 input channels where {wanted} are expected"):
        recipe_for(FAMILIES[family], clues, "depth")


def test_a_network_with_a_class_embedding_is_refused():
    with pytest.raises(ValueError, match="4 input channels and a class embedding where 4 are expected"):
        recipe_for(FAMILIES["genpercept"], Clues(replace(SD2, vector_dim=4), "unet"), "depth")


def test_the_head_family_needs_a_head():
    with pytest.raises(ValueError, match="its head is missing: put dpt_head_identity/ beside it"):
        recipe_for(FAMILIES["genpercept-dpt"], Clues(SD2, "unet_disparity_v2"), "")


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown family 'lotus': this version knows marigold, .*lotus-d"):
        family_named("lotus")


def test_a_family_of_one_task_is_not_asked_for_another_whatever_its_folder_is_called():
    row = FAMILIES["depthmaster"]
    with pytest.raises(ValueError, match="it was trained for disparity, not for normal"):
        recipe_for(row, Clues(network_of(row), "unet", "my-disparity"), "normal")
