"""SDPose: what its authors' code answers, on their vectors and on networks computed here by other means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_sdpose
import torch
from safetensors.torch import load_file, save_file

from diffusion_perception.core.checkpoints.checkpoint import open_all, open_checkpoint
from diffusion_perception.core.checkpoints.describe import describe
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.crops import Box
from diffusion_perception.core.heads.table import HEADS, build_head
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.pose import people_of, predict_people
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.host import load_perceiver, open_perceiver
from diffusion_perception.trainer.perceiver import read_upright

POINTS = {"sdpose_body": 17, "sdpose_wholebody": 133}
SIZE = (96, 128)
"""Width and height of the crops here; 768 and 1024 in the published models."""


def boxed(box: list[int]) -> Box:
    """Two corners as x, y, width, height."""
    left, top, right, bottom = box
    return Box(left, top, right - left, bottom - top)


# The authors' vectors


@pytest.mark.parametrize("name", POINTS)
def test_every_golden_case_comes_out_of_the_command_line(golden, tmp_path, name):
    folder, points = golden / name, POINTS[name]
    expected = np.load(folder / "expected.npz")
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        found = predicted(tmp_path / case["name"], folder, folder / f"{case['image']}.png", case)
        (person,) = tiny_sdpose.openpose(found, points)
        seen = expected[f"{case['name']}/scores"] >= 0.3
        assert np.array_equal(person[:, 2] == 1, seen)
        shown = np.intersect1d(case["steady_keypoints"], np.flatnonzero(seen))
        assert np.abs(person[:, :2] - expected[f"{case['name']}/keypoints"])[shown].max() <= 0.05


def predicted(out: Path, model: Path, picture: Path, case: dict) -> dict:
    """The JSON that `predict` writes."""
    out.mkdir()
    words = ["--model", model, "--resolution", case["input_size"][1], "--out", out]
    if case["box"] is not None:
        boxes = {picture.name: [boxed(case["box"])[:4]]}
        words += ["--boxes", tiny.write_json(out / "boxes.in", boxes)]
    words += ["--flip-test"] * case["flip_test"]
    assert main(["predict", *map(str, words), str(picture)]) == 0
    assert (out / f"{picture.stem}.png").is_file()
    return json.loads((out / f"{picture.stem}.json").read_text())


@pytest.mark.parametrize("name", POINTS)
def test_every_golden_heatmap_and_score_comes_out(golden, name):
    folder = golden / name
    expected = np.load(folder / "expected.npz")
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        perceiver = open_perceiver(folder, overrides=[f"resolution={case['input_size'][1]}"], device="cpu")
        boxes = None if case["box"] is None else [[boxed(case["box"])]]
        picture = read_upright(folder / f"{case['image']}.png")
        with torch.inference_mode():
            seen = predict_people(perceiver, picture, boxes, flip_test=case["flip_test"])
        heatmaps = seen.values[0].movedim(-1, 0).numpy()[:: 8 if "heatmaps_of" in case else 1]
        assert np.abs(heatmaps - expected[f"{case['name']}/heatmaps"]).max() <= 1e-4
        assert np.abs(people_of(seen)[0][0].scores - expected[f"{case['name']}/scores"]).max() <= 1e-4


# Networks computed here


@pytest.fixture(scope="module", params=POINTS.values(), ids=POINTS)
def points(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, points) -> Path:
    name = {17: "SDPose-Body", 133: "SDPose-Wholebody"}[points]
    return tiny_sdpose.write_folder(tmp_path_factory.mktemp("published") / name, points)


BOXES = [[20, 10, 70, 90], [0, 0, 45, 131], [33, 60, 97, 113]]
"""Two corners each."""


def test_people_in_a_picture_are_seen_as_a_second_computation_sees_them(folder, points):
    picture = tiny.picture(131, 97)
    perceiver = open_perceiver(folder, overrides=["resolution=128"], device="cpu")
    with torch.inference_mode():
        seen = predict_people(perceiver, picture, [[boxed(box) for box in BOXES]], batch_size=2)
    levels = tiny.expected_levels(picture)
    expected = np.stack([tiny_sdpose.heatmaps(levels, tuple(box), SIZE, points) for box in BOXES])
    assert seen.values.shape == (3, 32, 24, points)
    assert np.abs(seen.values.movedim(-1, 1).numpy() - expected).max() <= 1e-4
    people = {tuple(np.round(one.scores, 3)): one for one in people_of(seen, same=1.0)[0]}
    for maps, box in zip(expected, BOXES):
        person = next(one for one in people.values() if np.abs(one.scores - maps.max((1, 2))).max() <= 1e-4)
        placed, steady = tiny_sdpose.keypoints(maps, tuple(box))
        assert steady.mean() > 0.3
        assert np.abs(person.points - placed)[steady].max() <= 0.05


@pytest.mark.parametrize(("size", "edge"), [((64, 80), 64), ((150, 90), 96), ((40, 200), 128)])
def test_a_picture_without_boxes_is_stretched_whole_at_any_size(folder, points, size, edge):
    picture = tiny.picture(*size, seed=1)
    perceiver = open_perceiver(folder, overrides=[f"resolution={edge}"], device="cpu")
    with torch.inference_mode():
        seen = perceiver(picture)
    expected = tiny_sdpose.heatmaps(tiny.expected_levels(picture), None, (edge * 3 // 4, edge), points)
    assert np.abs(seen.values[0].movedim(-1, 0).numpy() - expected).max() <= 1e-4


def test_the_mean_of_a_crop_and_its_mirror_image_exchanges_sides(tmp_path):
    picture, box = tiny.picture(131, 97), BOXES[0]
    perceiver = open_perceiver(tiny_sdpose.write_folder(tmp_path / "body"), overrides=["resolution=128"], device="cpu")
    with torch.inference_mode():
        seen = predict_people(perceiver, picture, [[boxed(box)]], flip_test=True)
    expected = tiny_sdpose.heatmaps(tiny.expected_levels(picture), tuple(box), SIZE, 17, flip=True)
    assert np.abs(seen.values[0].movedim(-1, 0).numpy() - expected).max() <= 1e-4


def test_boxes_between_pixels_and_beyond_the_border_are_those_of_whole_pixels_inside(folder):
    perceiver = open_perceiver(folder, overrides=["resolution=64"], device="cpu")
    picture = tiny.picture(131, 97)
    pairs = [(Box(20.7, 10.2, 50.1, 80.3), Box(20, 10, 50, 80)), (Box(-9, 100, 40, 90), Box(0, 100, 31, 31))]
    with torch.inference_mode():
        for given, whole in pairs:
            found, expected = (predict_people(perceiver, picture, [[box]]) for box in (given, whole))
            assert torch.equal(found.values, expected.values)
            assert torch.equal(found.crops.windows, expected.crops.windows)
        slim = predict_people(perceiver, picture, [[Box(20.2, 10.2, 0.5, 0.5)]])
    assert slim.crops.windows.tolist() == [[20, 10, 1, 1]]


def test_openposes_json_of_the_command_line_has_the_shape_that_comfyuis_pose_nodes_read(folder, points, tmp_path):
    """18 joints, 70 points of a face, 21 of each hand, 6 of the feet; x, y and how sure, in pixels."""
    picture = tiny.save_picture(tmp_path / "two.png", 131, 97)
    case = {"box": BOXES[0], "flip_test": False, "input_size": SIZE}
    frame = predicted(tmp_path / "out", folder, picture, case)
    assert (frame["canvas_width"], frame["canvas_height"]) == (97, 131)
    (person,) = frame["people"]
    lengths = {name: len(numbers) / 3 for name, numbers in person.items()}
    hands = {"hand_left_keypoints_2d": 21, "hand_right_keypoints_2d": 21}
    always = {"pose_keypoints_2d": 18, "face_keypoints_2d": 70, **hands}
    assert lengths == (always if points == 17 else {**always, "foot_keypoints_2d": 6})
    assert all(isinstance(number, float) for numbers in person.values() for number in numbers)
    maps = tiny_sdpose.heatmaps(tiny.expected_levels(tiny.picture(131, 97)), tuple(BOXES[0]), SIZE, points)
    placed, steady = tiny_sdpose.keypoints(maps, tuple(BOXES[0]))
    found = tiny_sdpose.coco(person, points)
    shown = steady & (maps.max((1, 2)) >= 0.31)
    assert shown.sum() >= 5
    assert found[shown, 2] == pytest.approx(1)
    assert np.abs(found[shown, :2] - placed[shown]).max() <= 0.05


# What is on disk


def test_the_folder_and_its_unet_alone_say_what_they_are(folder, points):
    for path in (folder, folder / "unet"):
        (recipe,) = (checkpoint.recipe for checkpoint in open_all(path))
        told = (recipe.family, recipe.task, recipe.keypoints, recipe.head, recipe.crop, recipe.decoding, recipe.licence)
        skeleton = {17: "coco-17", 133: "wholebody-133"}[points]
        assert told == ("sdpose", "keypoints", skeleton, "sdpose", "stretched", "udp", "MIT")
        assert (recipe.timestep, recipe.tokens, recipe.resolution, recipe.aspect) == (999, 2, 1024, 0.75)
        assert recipe.vector == pytest.approx((0.841471, 0, 0.540302, 1), abs=1e-6)
        (row,) = describe(path)["checkpoints"]
        assert (row["recipe"]["family"], row["recipe"]["licence"]) == ("sdpose", "MIT")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_comfyuis_single_file_is_the_same_model(tmp_path, capsys, dtype):
    path = tiny_sdpose.write_single(tmp_path / "sdpose_wholebody.safetensors", 133, dtype)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.recipe.family, checkpoint.recipe.keypoints) == ("sdpose", "wholebody-133")
    assert not any("heatmap_head" in name for name in checkpoint.unet.shapes)
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("sdpose", "wholebody-133", "MIT"))
    picture = tiny.picture(60, 60)
    with torch.inference_mode():
        seen = predict_people(load_perceiver(checkpoint.overridden(["resolution=64"])), picture)
    expected = tiny_sdpose.heatmaps(tiny.expected_levels(picture), None, (48, 64), 133)
    assert np.abs(seen.values[0].movedim(-1, 0).numpy() - expected).max() <= 1e-4


def test_a_single_file_without_its_prompt_asks_for_one(tmp_path):
    path = tiny_sdpose.write_single(tmp_path / "sdpose_wholebody.safetensors")
    (tmp_path / "empty_text_embed.safetensors").rename(tmp_path / "prompt.safetensors")
    with pytest.raises(CheckpointError, match="comes without a text context: .*--context FILE"):
        load_perceiver(open_checkpoint(path))
    words = ["--model", path, "--context", tmp_path / "prompt.safetensors", "--resolution", 64]
    words += ["--out", tmp_path / "out"]
    assert main(["predict", *map(str, words), str(tiny.save_picture(tmp_path / "p.png", 60, 60))]) == 0


def test_without_its_head_it_is_no_lotus(tmp_path):
    tiny_sdpose.write_folder(tmp_path / "SDPose")
    (tmp_path / "SDPose" / "decoder" / "decoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be used as SDPose: its head is missing: put decoder/ beside it"):
        open_checkpoint(tmp_path / "SDPose")
    tiny_sdpose.write_folder(tmp_path / "unnamed")
    with pytest.raises(CheckpointError, match="it was trained for keypoints, not for depth"):
        open_checkpoint(tmp_path / "unnamed", task="depth")


def test_a_decoder_of_something_else_beside_lotus_is_no_head(tmp_path):
    folder = tiny_sdpose.write_folder(tmp_path / "lotus-depth-d", pipeline="DirectRegressionPipeline")
    save_file({"conv.weight": torch.zeros(1)}, folder / "decoder" / "decoder.safetensors")
    assert open_checkpoint(folder).recipe.family == "lotus-d"


def test_a_head_of_other_points_is_refused_by_their_number(tmp_path):
    with pytest.raises(CheckpointError, match="its head gives 21 heatmaps; this version knows those of 17 and 133"):
        open_checkpoint(tiny_sdpose.write_folder(tmp_path / "hands", 21))


# The head


def test_the_head_reads_the_level_that_is_as_wide_as_it_and_says_so_where_none_is():
    head = build_head("sdpose", tiny.shapes(tiny_sdpose.head(17)))
    assert tiny.shapes(head.state_dict()) == tiny.shapes(tiny_sdpose.head(17))
    wide = tuple(torch.zeros(1, 64, 4, 4) for _ in range(4))
    with pytest.raises(ValueError, match="The head reads 32 channels, but the UNet gives 64 or 64"):
        head(wide)
    assert "sdpose" in HEADS


def test_a_file_of_the_projects_own_keeps_all_of_it(tmp_path, folder, points):
    exported = tmp_path / "own.safetensors"
    assert main(["export", "--model", str(folder), "--out", str(exported), "--dtype", "fp32"]) == 0
    assert "head.sdpose.deconv_layers.0.weight" in load_file(exported)
    picture = tiny.picture(60, 60)
    with torch.inference_mode():
        one, other = (
            predict_people(load_perceiver(open_checkpoint(path).overridden(["resolution=64"])), picture)
            for path in (folder, exported)
        )
    assert torch.equal(one.values, other.values)
    assert one.convention == other.convention


def test_a_whole_image_is_perceived_like_every_other_map_and_read_likewise(folder, points):
    perceiver = open_perceiver(folder, overrides=["resolution=128"], device="cpu")
    with torch.inference_mode():
        seen = predict(perceiver, tiny.picture(128, 96))
    assert seen.values.shape == (1, 128, 96, points)
    (person,) = people_of(seen)[0]
    highest = seen.values[0].flatten(0, 1).argmax(0).numpy()
    cells = np.stack([highest % 96, highest // 96], 1)
    # on noise some steps are long; most stay near the highest pixel
    assert np.median(np.abs(person.points - cells).max(1)) <= 8


def test_the_evaluations_crop_is_a_setting(folder):
    """A quarter more around the box at the crop's aspect, in place of the demo's stretched box."""
    perceiver = open_perceiver(folder, overrides=["resolution=64", "crop=padded"], device="cpu")
    with torch.inference_mode():
        seen = predict_people(perceiver, tiny.picture(131, 97), [[Box(20, 10, 30, 80)]])
    assert seen.crops.windows.tolist() == [[35 - 37.5, 50 - 50, 75, 100]]
