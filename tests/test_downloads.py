"""What people are told to download is one table, and a folder called as it says is taken for what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import downloads
import model_links
import pytest
import tiny
from tiny_adapters import KINDS, random_adapter, saved, spelled

from diffusion_perception.core.checkpoints.adapter_names import PROCESSORS
from diffusion_perception.core.checkpoints.architecture import UNetArchitecture
from diffusion_perception.core.checkpoints.checkpoint import open_all
from diffusion_perception.core.checkpoints.clues import Clues
from diffusion_perception.core.checkpoints.describe import describe
from diffusion_perception.core.checkpoints.families import FAMILIES, recipe_for, recognise
from diffusion_perception.core.checkpoints.library import Library
from diffusion_perception.core.checkpoints.published import LICENCES, PLACES, PUBLISHED
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main

README = downloads.README.read_text("utf-8")
FREE, LIMITED, CLOSED = ("Apache-2.0", "yes"), ("RAIL++-M", "yes, with use restrictions"), "no"
CARDS = {
    "marigold-depth-v1-0": FREE,
    "marigold-depth-v1-1": LIMITED,
    "marigold-normals-v1-1": LIMITED,
    "marigold-depth-lcm-v1-0": FREE,
    "marigold-normals-lcm-v0-1": FREE,
    "marigold-iid-lighting-v1-1": LIMITED,
    "marigold-e2e-ft-normals": FREE,
    "stable-diffusion-e2e-ft-depth": FREE,
    "lotus-depth-d-v1-1": FREE,
    "lotus-normal-g-v1-1": FREE,
    "DepthMaster": FREE,
    "SDPose-Body": ("MIT", "yes"),
    "sdpose_wholebody_fp16.safetensors": ("MIT", "yes"),
    "rgb-to-x": ("Adobe Research License", CLOSED),
    "ouroboros": ("Adobe Research License, as RGB-X's", CLOSED),
    "genpercept-models": ("BSD-2-Clause, non-commercial", CLOSED),
    "intrinsic-lora-depth": ("CreativeML Open RAIL-M", "yes, with use restrictions"),
}
"""{folder: (licence, commercial use)} as the cards and READMEs of their authors have them."""


def test_the_readme_and_the_code_have_one_table():
    assert downloads.table() in README, "run tools/downloads.py"


def test_what_to_take_first_is_in_the_table_with_what_is_said_of_it():
    lines = re.search(r"take first\n\n((?:- .*\n)+)", README)
    assert lines
    free, limited, closed = lines[1].splitlines()
    for line, allowed in ((free, "yes"), (limited, "yes, with use restrictions"), (closed, "no")):
        named = re.findall(r"`([^`]+)`", line)
        assert named
        assert {PLACES[name.lower()][1].commercial for name in named} == {allowed}
    command = re.search(r"hf download (\S+/(\S+)) (.*) --local-dir models/perception/(\S+)\n", README)
    assert command
    _, row = PLACES[command[2]]
    assert row.places[command[4]] == f"https://huggingface.co/{command[1]}"
    assert re.findall(r'--include "([^"]+)"', command[3]) == row.get.split()


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.what)
def test_a_row_names_families_a_known_licence_and_addresses(row):
    assert set(row.families) <= FAMILIES.keys()
    assert row.licence in LICENCES
    assert all(address.startswith("https://") for address in row.places.values())


def test_no_two_rows_have_one_place_and_every_family_but_an_ablation_has_one():
    assert len(PLACES) == sum(len(row.places) for row in PUBLISHED)
    assert FAMILIES.keys() - {name for row in PUBLISHED for name in row.families} == {"genpercept-stochastic"}


LEADING = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": False,
    "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip
SAID = {
    "marigold": {"index": {"_class_name": "MarigoldPipeline"}, "scheduler": LEADING},
    "marigold-intrinsics": {"index": {"_class_name": "MarigoldIntrinsicsPipeline"}, "scheduler": LEADING},
    "e2e-ft": {
        "index": {"_class_name": "StableDiffusionPipeline"},
        "scheduler": {**LEADING, "timestep_spacing": "trailing"},
    },
    "depthmaster": {"index": {"_class_name": "MarigoldPipeline"}},
    "genpercept": {"index": {"_class_name": "GenPerceptPipeline"}},
    "sdpose": {"head": "decoder", "head_shapes": {"final_layer.weight": (133, 640, 1, 1)}},
}
"""{family: what lies beside its weights, as published}"""
MASKS = {"genpercept-models": "unet_dis_v2", "ouroboros": "unet_1"}
"""{folder: that of a UNet in it}, where that is not unet/."""


def clues_of(place: str, family: str) -> Clues:
    """Of what lies under that name, if its weights are shaped as its family's."""
    row = FAMILIES[family]
    several = 2 if "appearance" in place else 3
    taken, given = (row.channels, 4) if row.channels else (4 + 4 * several, 4 * several)
    network = UNetArchitecture(
        taken, given, (320, 640, 1280, 1280), 2, (True, True, True, False), (5, 10, 20, 20), 1024, True,
        row.vector_dim, row.fourier,
    )  # fmt: skip
    if family in ("dmp", "intrinsic-lora"):
        return Clues(network, place, adapter=PROCESSORS, rank=4 if family == "dmp" else 8)
    if place.endswith(".safetensors"):
        return Clues(network, Path(place).stem, "perception", **SAID.get(family, {}))
    return Clues(network, MASKS.get(place, "unet"), place, **SAID.get(family, {}))


@pytest.mark.parametrize("place", [place for place, _ in PLACES.values()])
def test_a_folder_called_as_the_table_says_is_told_with_its_task_and_licence(place):
    _, row = PLACES[place.lower()]
    clues = clues_of(place, row.families[0])
    family = recognise(clues)
    assert family is not None, "say in SAID what lies beside its weights"
    assert family.name == row.families[0]
    assert recipe_for(family, clues, "").licence == row.licence
    if place in CARDS:
        assert (row.licence, row.commercial) == CARDS[place]


def library(folder: Path) -> Library:
    return Library(lambda: [folder], "models/perception")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "marigold-depth-v1-1",
            "get *.fp16.safetensors *.json *.txt from https://huggingface.co/prs-eth/marigold-depth-v1-1 into "
            "models/perception/marigold-depth-v1-1, or choose a checkpoint",
        ),
        ("sub\\MARIGOLD-Depth-V1-1\\unet", "into models/perception/marigold-depth-v1-1, or choose"),
        ("GenPercept-Models/unet_depth_v2", "https://huggingface.co/guangkaixu/genpercept-models into"),
        (
            "lotus-depth-d-v1-1.safetensors",
            "get it from https://huggingface.co/Comfy-Org/lotus/resolve/main/lotus-depth-d-v1-1.safetensors into "
            "models/perception, or choose",
        ),
        ("my-marigold-depth-v1-1", "put it there, or choose a checkpoint"),
    ],
)
def test_what_a_workflow_names_and_nobody_has_yet_is_told_with_its_address(tmp_path, name, told):
    with pytest.raises(CheckpointError) as refusal:
        library(tmp_path).resolve(name)
    assert str(refusal.value).startswith(f"There is no {name!r} in models/perception: ")
    assert told in str(refusal.value)


def test_an_adapter_too(tmp_path):
    with pytest.raises(CheckpointError, match="https://drive.google.com/.* into models/perception/depth-hypersim"):
        library(tmp_path).resolve("depth-hypersim-notext", adapters=True)


def test_the_command_line_tells_it_too(tmp_path, capsys):
    place = tmp_path / "lotus-normal-d-v1-1"
    assert main(["info", str(place)]) == 2
    said = capsys.readouterr().err
    assert f"There is no file {place}: check the path, or get *.safetensors" in said
    assert f"from https://huggingface.co/jingheya/lotus-normal-d-v1-1 into {place}." in said
    assert main(["info", str(tmp_path / "mine")]) == 2
    assert capsys.readouterr().err.endswith("mine: check the path.\n")


def info(capsys, path: Path) -> dict:
    assert main(["info", str(path)]) == 0
    return json.loads(capsys.readouterr().out)


def licence_of(told: dict) -> tuple[str, str, str]:
    return told["family"], told["licence"], told["commercial use"]


def test_info_says_the_family_and_the_licence_of_published_weights(tmp_path, capsys):
    folder = tiny.write_genpercept(tmp_path / "genpercept-models", ["unet_depth_v2", "unet_dis_v1"])
    v2, v1 = (licence_of(row) for row in info(capsys, folder)["checkpoints"])
    assert v2 == ("GenPercept v2", "BSD-2-Clause, non-commercial", "no")
    assert v1 == ("GenPercept v1", "BSD-2-Clause, non-commercial", "no")


def test_info_claims_no_licence_for_weights_that_nobody_is_known_to_have_published(tmp_path):
    folder = tiny.write_genpercept(tmp_path / "mine", ["unet_depth_v2"])
    (row,) = describe(folder)["checkpoints"]
    told = ("GenPercept v2", "not said; others of this family: BSD-2-Clause, non-commercial", "not said")
    assert licence_of(row) == told
    assert row["recipe"]["licence"] == ""


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("MIT", ("MIT", "yes")),
        ("apache-2.0", ("apache-2.0", "yes")),
        ("my own", ("my own", "not said")),
        ("", ("not said", "not said")),
    ],
)
def test_info_says_the_licence_that_a_file_of_the_project_s_own_has_in_its_header(tmp_path, licence, told):
    path = tmp_path / "mine.safetensors"
    tiny.write_own(path, [Recipe("depth", licence=licence)])
    (row,) = describe(path)["checkpoints"]
    assert licence_of(row) == ("not said", *told)


def test_info_says_an_adapter_s_family_and_licence(tmp_path, capsys):
    tensors = spelled(random_adapter(tiny.unet(generation=1), KINDS["attention"], rank=4), PROCESSORS)
    for name, told in (
        ("depth-hypersim-notext", ("DMP", "Apache-2.0, of the code", "not said")),
        ("mine", ("DMP", "not said; others of this family: Apache-2.0, of the code", "not said")),
    ):
        saved(tmp_path / name / "pytorch_lora_weights.safetensors", tensors)
        assert licence_of(info(capsys, tmp_path / name)) == told


def test_single_files_of_the_table_are_what_workflows_link():
    files = {place: row.places[place] for place, row in PLACES.values() if place.endswith(".safetensors")}
    assert files
    for place, address in files.items():
        assert model_links.models_of(["depth", place, 1.0]) == [
            {"name": place, "url": address, "directory": "perception"}
        ]
    assert model_links.models_of([model_links.STARTER, None, "marigold-depth-v1-1"]) == []


def written_axes() -> dict[str, tuple[str, ...]]:
    """{whose normals: where they point, () if their authors do not say it}, as the README has it."""
    words = {"towards the camera": "back", "away from the camera": "forward"}
    found = {}
    for line in README.partition("| normals of |")[2].partition("\n\n")[0].splitlines()[2:]:
        whose, *axes = (cell.strip() for cell in line.strip("| ").split("|"))
        pointing = tuple(words.get(axis, axis) for axis in axes if len(axes) == 3)
        found |= dict.fromkeys(whose.split(", "), pointing)
    return found


@pytest.mark.parametrize("place", [place for place, _ in PLACES.values()])
def test_normals_point_where_the_readme_says(place):
    _, row = PLACES[place.lower()]
    family = FAMILIES[row.families[0]]
    clues = clues_of(place, family.name)
    if "normal" in (clues.task, *family.tasks(clues)):
        assert (recipe_for(family, clues, "normal").axes or ()) == written_axes()[family.title.split(" ")[0]]


def test_the_readme_says_where_the_starters_normals_point():
    rows = open_all(downloads.README.parent / "weights" / "starter.safetensors", task="normal")
    assert {row.recipe.axes for row in rows} == {written_axes()["the starter"]}
