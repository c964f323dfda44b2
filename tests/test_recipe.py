"""A recipe travels in the header of a safetensors file, and can be overridden for one run."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_perception.core.codecs import CODECS
from diffusion_perception.core.image import RESIZE_RULES
from diffusion_perception.core.perception_map import Convention
from diffusion_perception.core.recipe import KEY, Recipe, from_header, to_header
from diffusion_perception.core.tasks import TASKS

CONTRACT = (
    "task", "base", "paradigm", "steps", "timestep", "beta_start", "beta_end", "prediction_type", "keep_image",
    "resolution", "target_scale", "ensemble_size", "guidance_scale", "seed",
)  # fmt: skip
"""Field names that the command line promises."""

recipes = st.builds(
    Recipe,
    task=st.sampled_from(list(TASKS)),
    name=st.text(max_size=8),
    paradigm=st.sampled_from(["deterministic", "stochastic"]),
    steps=st.integers(1, 1000),
    timestep=st.integers(0, 999),
    beta_start=st.floats(1e-6, 1.0),
    beta_end=st.floats(1e-6, 1.0),
    zero_snr=st.booleans(),
    prediction_type=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    keep_image=st.booleans(),
    tokens=st.integers(0, 77),
    seed=st.integers(0, 2**63 - 1),
    resize=st.sampled_from(list(RESIZE_RULES)),
    codec=st.sampled_from(["", *(name for name in CODECS if not CODECS[name].classes)]),
    target_scale=st.floats(-10, 1000),
    axes=st.none() | st.permutations(["left", "up", "back"]).map(tuple),
)


@given(written=st.lists(recipes, min_size=1, max_size=3))
def test_recipes_come_out_of_a_header_as_they_went_in(written):
    assert from_header(to_header(written), "a file") == tuple(written)


def test_a_header_holds_only_what_differs_from_the_defaults():
    assert json.loads(to_header([Recipe("depth", seed=3)])[KEY]) == [{"task": "depth", "seed": 3}]


def test_the_defaults_that_old_files_rely_on_have_not_changed():
    """A file leaves its defaults out: a default that changes would change what every older file predicts."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe) if field.name != "task"}
    assert defaults == {
        "name": "", "family": "", "base": "sd21",
        "paradigm": "one-step", "steps": 1, "timestep": 1, "beta_start": 1.0, "beta_end": 1.0, "zero_snr": False,
        "spacing": "leading", "steps_offset": 1, "final_alpha_one": False, "prediction_type": "v_prediction",
        "keep_image": False, "final": "sample", "tokens": 0, "guidance_scale": 1.0, "ensemble_size": 1, "seed": 0,
        "ensemble_edge": 0, "sampler": "ddim", "original_steps": 50, "timestep_scaling": 10.0, "noise": "gaussian",
        "order": "image-first", "targets": 1, "target": 0, "prompt": "", "vector": None, "filter": "",
        "back_filter": "", "input_gamma": 1.0, "channel": -1, "encoding": "", "up_to_scale": False,
        "resolution": 768, "resize": "genpercept", "head": "", "decoder": "", "decoder_cost": "",
        "encoder": "", "encoder_cost": "", "codec": "", "target_scale": 1.0, "metric": False,
        "axes": None, "palette": "", "keypoints": "", "limbs": "", "aspect": 0.75, "crop": "padded", "decoding": "dark",
        "licence": "", "data": "",
    }  # fmt: skip


def test_the_fields_that_the_command_line_promises_exist():
    assert set(CONTRACT) <= {field.name for field in dataclasses.fields(Recipe)}


ASSIGNMENTS = [
    ("steps=4", "steps", 4),
    ("paradigm=deterministic", "paradigm", "deterministic"),
    ("beta_start=0.00085", "beta_start", 0.00085),
    ("keep_image=true", "keep_image", True),
    ("keep_image=False", "keep_image", False),
    ("guidance_scale=2", "guidance_scale", 2.0),
    ("target_scale=-1", "target_scale", -1.0),
    ("task=normal", "task", "normal"),
    ("axes=left,up,back", "axes", ("left", "up", "back")),
    ("axes=", "axes", None),
]


@pytest.mark.parametrize(("text", "field", "value"), ASSIGNMENTS)
def test_an_assignment_is_read_as_its_field_is_typed(text, field, value):
    recipe = Recipe("depth", paradigm="stochastic").override([text])
    assert getattr(recipe, field) == value
    assert type(getattr(recipe, field)) is type(value)


def test_overriding_leaves_the_original_alone():
    recipe = Recipe("depth")
    assert recipe.override(["seed=5"]).seed == 5
    assert recipe.seed == 0


REFUSED = [
    ("stpes=4", "no field 'stpes'.*did you mean 'steps'"),
    ("qqq=4", "no field 'qqq'.*the fields are task, "),
    ("steps", "'steps' is not an assignment: write FIELD=VALUE"),
    ("steps=four", "steps='four': expected a value of type int"),
    ("steps=0", "one-step recipe runs 1 step, not 0"),
    ("steps=5", "one-step recipe runs 1 step, not 5: set paradigm=deterministic"),
    ("keep_image=yes", "keep_image='yes': expected a value of type bool"),
    ("beta_start=1.5", "beta_start=1.5 is outside"),
    ("beta_start=0", "beta_start=0.0 is outside"),
    ("beta_end=nan", "beta_end=nan is outside"),
    ("guidance_scale=inf", "guidance_scale=inf is outside"),
    ("target_scale=nan", "target_scale=nan is outside"),
    ("seed=-1", "seed=-1 is outside"),
    ("timestep=1000", "timestep=1000 is outside 0..999"),
    ("paradigm=two-step", "paradigm='two-step' is not one of 'one-step', 'deterministic', 'stochastic'"),
    ("prediction_type=v", "prediction_type='v' is not one of 'epsilon', 'v_prediction', 'sample'"),
    ("resize=squash", "resize='squash' is not one of 'genpercept'"),
    ("codec=png", "codec='png' is not one of"),
    ("task=dept", "Unknown task 'dept'"),
    ("axes=left,up", "axes=left,up is not three of"),
    ("axes=left,up,here", "axes=left,up,here is not three of"),
    ("head=dpt_head", "head comes with the weights"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_a_wrong_assignment_is_told_in_one_sentence(text, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Recipe("depth").override([text])
    assert "\n" not in str(error.value)


def test_a_head_reads_one_pass_only():
    with pytest.raises(ValueError, match="A head reads one pass of the network: paradigm=deterministic"):
        Recipe("disparity", head="dpt_head_identity").override(["paradigm=deterministic"])


DAMAGED = ["{", "[1]", '{"task": "depth"}', '[{"task": "smell"}]', '[{"task": "depth", "warp": 9}]', "[{}]", "null",
           '[{"task": "depth", "steps": "4"}]']  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_header_that_cannot_be_read_is_told_in_one_sentence(text):
    with pytest.raises(
        ValueError, match="some file has a recipe that this version cannot read .*: update the pack"
    ) as error:
        from_header({KEY: text}, "some file")
    assert "\n" not in str(error.value)


def test_a_header_without_a_recipe_is_told_from_one_with():
    with pytest.raises(ValueError, match="some file carries no diffusion_perception.recipe: name its family and task"):
        from_header({"format": "pt"}, "some file")


def test_the_convention_says_what_the_values_mean():
    depth = Recipe("depth").convention()
    assert depth == Convention(low=0.0, high=1.0, near="low")
    assert Recipe("disparity").convention().near == "high"
    metres = Recipe("depth", codec="unbounded", target_scale=8, metric=True).convention()
    assert (metres.high, metres.metric) == (None, True)
    vectors = Recipe("normal", codec="unit-vector", axes=("right", "up", "back")).convention()
    assert (vectors.low, vectors.unit, vectors.axes) == (-1.0, True, ("right", "up", "back"))
    assert Recipe("segmentation", palette="ade20k").convention().palette == "ade20k"


MERGES = [
    (Recipe("depth"), "affine"),
    (Recipe("depth", metric=True), "median"),
    (Recipe("depth", target_scale=8), "median"),
    (Recipe("depth", codec="unbounded"), "median"),
    (Recipe("normal", codec="unit-vector"), "direction"),
    (Recipe("normal"), "median"),
    (Recipe("mask"), "median"),
]


@pytest.mark.parametrize(("recipe", "merge"), MERGES)
def test_an_ensemble_is_merged_in_a_way_that_suits_its_values(recipe, merge):
    """Affine alignment would undo metres, and a mean direction is none of vectors in [0, 1]."""
    assert recipe.merge == merge
