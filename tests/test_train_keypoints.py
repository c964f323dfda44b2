"""Keypoints are learnt from people in pictures, and measured as COCO measures them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from PIL import Image

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.crops import Box, cut, inside, window_around
from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.core.pose import Person, crop_size, predict_people
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.skeletons import COCO, skeleton_named
from diffusion_perception.trainer import cli, keypoint_ap
from diffusion_perception.trainer.config import ConfigError
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.data.people import named_after, plain_people
from diffusion_perception.trainer.data.records import read_image
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare

SCENES = Path(__file__).parent / "data" / "scenes"
STEPS = 12


def config(tmp_path: Path, head: str = "vitpose_classic", **settings):
    runs.write_vae(tmp_path / "vae")
    return runs.config(
        tmp_path,
        **{
            "out": str(tmp_path / "run"),
            "tasks": ["keypoints"],
            "size": [64, 48],
            "steps": STEPS,
            "batch_size": 4,
            "save_every": 1000,
            "data": [{"root": str(SCENES / "val")}],
            "validation": [{"root": str(SCENES / "test")}],
            "network": {"head": head, "head_width": 32},
            "objective": {"loss": "pixel"},
            "optimiser": {"lr": 3e-3},
            **settings,
        },
    )


@pytest.mark.parametrize("head", ["vitpose_classic", "vitpose_simple"])
def test_rendered_bodies_teach_both_heads_and_the_file_predicts_what_they_learnt(tmp_path, head):
    run = prepare(config(tmp_path, head))
    before = run.evaluator.measure(0, True)
    fit(run)
    after = run.evaluator.measure(STEPS, True)
    assert after["keypoints/loss"] < 0.7 * before["keypoints/loss"]
    assert 0 <= after["keypoints/pck-0.1"] <= after["keypoints/pck"] <= 1
    checkpoint = open_checkpoint(tmp_path / "run" / "last.safetensors")
    recipe = checkpoint.recipe
    assert (recipe.keypoints, recipe.aspect, recipe.resolution, recipe.head) == ("coco-17", 0.75, 64, head)
    image, boxes = torch.rand(1, 3, 90, 100), [[Box(10, 10, 30, 70)]]
    with torch.no_grad():
        learnt = predict_people(run.learner.perceiver("keypoints"), image, boxes, flip_test=True)
        read = predict_people(load_perceiver(checkpoint), image, boxes, flip_test=True)
    assert learnt.values.shape == (1, 16, 12, 17)
    assert torch.allclose(learnt.values, read.values, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (64, 48), (48, 96)])
def test_people_are_learnt_in_the_very_crops_that_are_predicted(tmp_path, size):
    settings = config(tmp_path, size=list(size), augment={})
    for (feed,) in open_feeds(settings, "custom"):
        recipe, person = feed.recipe, feed.records.records[0]
        assert crop_size(recipe) == size
        picture, _ = read_image(feed.records.root / person.image)
        box = inside(Box(*person.box), (picture.shape[-2], picture.shape[-1]))
        expected = cut(picture, window_around(box, crop_size(recipe)), crop_size(recipe))
        sample, _ = feed.sample(0, np.random.default_rng(0))
        assert torch.equal(sample.image, expected)
        assert sample.target.shape == (17, *size)


def test_a_run_cuts_people_out_at_full_resolution_and_in_no_other_shape(tmp_path):
    (feed,), _ = open_feeds(config(tmp_path, size=[512, 384], augment={}), "custom")
    assert feed.records[0].image.shape == (3, 512, 384)
    assert plain_people(SCENES / "val", "val")[0].image.shape == (3, 256, 192)
    with pytest.raises(ConfigError, match=r"aspect = 0.5, .* not that of size = \[64, 48\]: leave it out"):
        open_feeds(config(tmp_path, recipe={"aspect": 0.5}), "custom")
    for field, value in {"crop": "stretched", "decoding": "udp"}.items():
        with pytest.raises(ConfigError, match=f"recipe's {field} = {value} is another than training teaches"):
            open_feeds(config(tmp_path, recipe={field: value}), "custom")
    coco = {"root": "here", "reader": "coco-keypoints", "settings": {"size": [256, 192]}}
    with pytest.raises(ConfigError, match=r"crops of size = \[256, 192\], the run pictures of size = \[64, 48\]"):
        open_feeds(config(tmp_path, data=[coco]), "custom")


def test_people_are_measured_in_a_run_of_half_precision(tmp_path, own_precision):
    run = prepare(config(tmp_path, "vitpose_classic", precision="bf16", steps=1))
    fit(run)
    assert run.progress["best"] > 0


def test_people_whose_joints_are_not_known_are_left_out():
    people = plain_people(SCENES / "train", "train")
    annotated = [
        (path.stem, row["id"])
        for path in sorted((SCENES / "train" / "keypoints").glob("*.json"))
        for row in json.loads(path.read_text())["annotations"]
        if row["num_keypoints"]
    ]
    assert [record.name for record in people.records] == [f"{stem}/{number}" for stem, number in annotated]
    assert len(annotated) == 4
    assert people.faults == ()


def test_heatmaps_of_keypoints_without_a_label_do_not_count():
    target = torch.zeros(2, 3, 8, 8)
    target[0, 0, 3, 3] = target[1, 2, 5, 5] = 1
    valid = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    prediction = torch.full_like(target, 0.5)
    loss = LOSSES["heatmaps"](prediction, target, valid)
    assert loss.weight.item() == 2 * 64
    assert loss.mean().item() == pytest.approx(0.25)
    prediction[0, 1] = 100
    assert LOSSES["heatmaps"](prediction, target, valid).mean().item() == pytest.approx(0.25)


def test_keypoints_without_a_head_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='which only a head makes: set network.head = "vitpose_classic"'):
        prepare(config(tmp_path, ""))


def write_animals(root: Path, names: list[str], limbs: list[list[int]]) -> Path:
    """One picture with one animal."""
    for folder in ("images", "keypoints"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(root / "images" / "a.png")
    points = [number for place in range(len(names)) for number in (12 + 3 * place, 15 + 2 * place, 2)]
    row = {"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [10, 10, 25, 20]}
    table = {
        "annotations": [{**row, "num_keypoints": len(names), "keypoints": points}],
        "categories": [{"id": 1, "name": "cat", "keypoints": names, "skeleton": limbs}],
    }
    (root / "keypoints" / "a.json").write_text(json.dumps(table))
    (root / "dataset.toml").write_text('name = "cats"\n')
    return root


def test_a_recipe_takes_the_names_of_its_dataset(tmp_path):
    cats = plain_people(write_animals(tmp_path, ["nose", "left_ear", "right_ear"], [[1, 2], [1, 3]]), "cats")
    recipe = named_after(Recipe("keypoints", head="vitpose_simple"), [cats])
    assert recipe.skeleton == skeleton_named("nose, left_ear, right_ear", "nose:left_ear, nose:right_ear")
    assert named_after(Recipe("depth"), []).keypoints == ""
    with pytest.raises(ValueError, match="cats has 3 keypoints .* the recipe 17"):
        named_after(Recipe("keypoints", keypoints="coco-17"), [cats])


def test_animals_train_a_head_of_their_own_keypoints(tmp_path):
    root = str(write_animals(tmp_path / "cats", ["nose", "left_ear", "right_ear"], [[1, 2]]))
    run = prepare(config(tmp_path, steps=2, data=[{"root": root}], validation=[{"root": root}]))
    fit(run)
    (recipe,) = run.learner.recipes.values()
    assert recipe.channels == 3
    assert run.evaluator.measure(2, True)["keypoints/pck"] >= 0


# AP


def guesses(annotated: keypoint_ap.Annotated, spread: float) -> list[dict[str, object]]:
    """The truth, more or less."""
    random = np.random.default_rng(3)
    rows = []
    for row in annotated.table["annotations"]:
        if row["num_keypoints"]:
            points = np.reshape(row["keypoints"], (-1, 3)) + random.normal(0, spread, (17, 3)) * [1, 1, 0]
            score = float(random.uniform(0.2, 1))
            keypoints = points.reshape(-1).tolist()
            known = {"image_id": row["image_id"], "category_id": annotated.category}
            rows.append({**known, "keypoints": keypoints, "score": score})
    return rows


def straight(truth: Path, results: Path) -> list[float]:
    """pycocotools on the files, as its own example runs it."""
    pytest.importorskip("pycocotools")
    from pycocotools import coco, cocoeval

    with contextlib.redirect_stdout(io.StringIO()):
        table = coco.COCO(str(truth))
        evaluation = cocoeval.COCOeval(table, table.loadRes(str(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.5])
def test_ap_is_that_of_pycocotools_to_the_last_digit(tmp_path, spread):
    pytest.importorskip("pycocotools")
    annotated = keypoint_ap.from_folder(SCENES / "val")
    results = guesses(annotated, spread)
    scores = keypoint_ap.average_precision(annotated, results)
    (tmp_path / "truth.json").write_text(json.dumps(annotated.table))
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert list(scores.values()) == straight(tmp_path / "truth.json", tmp_path / "results.json")
    assert (scores["AP"] == 1) == (spread == 0)


@pytest.mark.parametrize("spread", [0.0, 2.5])
def test_people_read_as_records_have_the_ap_of_their_annotations(spread):
    pytest.importorskip("pycocotools")
    annotated = keypoint_ap.from_folder(SCENES / "val")
    people = plain_people(SCENES / "val", "val")
    results = guesses(annotated, spread)
    poses = [{name: row[name] for name in ("keypoints", "score")} for row in results]
    found = keypoint_ap.precision_parts(people, poses)
    expected = keypoint_ap.average_precision(annotated, results)
    for name, value in expected.items():
        measured = keypoint_ap.AP_ROWS[name.lower()].value(found[name.lower()])
        assert measured == pytest.approx(value if value >= 0 else float("nan"), nan_ok=True)
    # whoever was not found counts as missed
    assert keypoint_ap.precision_parts(people, [None] * len(people))["ap"].total.item() == 0


def test_the_command_writes_results_that_pycocotools_measures_the_same(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    run = prepare(config(tmp_path, steps=1, validation=[]))
    fit(run)
    model, out = str(tmp_path / "run" / "last.safetensors"), tmp_path / "measured"
    assert (
        keypoint_ap.command(["--model", model, "--root", str(SCENES / "test"), "--out", str(out), "--flip-test"]) == 0
    )
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores.values()) == straight(out / "truth.json", out / "results.json")
    assert f"AP         {scores['AP']:.3f}" in capsys.readouterr().out
    assert len(json.loads((out / "results.json").read_text())) == 2
    # `evaluate` makes the same of the same people
    alone = ["--model", model, "--root", str(SCENES / "test"), "--out", str(out)]
    assert keypoint_ap.command(alone) == 0
    words = ["evaluate", model, "--data", str(SCENES / "test"), "--out", str(tmp_path / "evaluated"), "--device", "cpu"]
    assert cli.main(words) == 0
    rows = json.loads((tmp_path / "evaluated/evaluation.json").read_text())["results"]
    (row,) = [row["metrics"] for row in rows if row["comparison"] == "coco"]
    scores = json.loads((out / "scores.json").read_text())
    for name, value in row.items():
        assert value == next((None if score < 0 else score for key, score in scores.items() if key.lower() == name))


def test_a_folder_without_people_is_refused(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "keypoints").mkdir()
    words = ["--model", "none", "--root", str(tmp_path), "--out", str(tmp_path)]
    assert keypoint_ap.command(words) == 2
    assert "no picture with a file of its name in keypoints/" in capsys.readouterr().err


def test_boxes_of_a_detector_stand_in_the_true_ones_place():
    annotated = keypoint_ap.from_folder(SCENES / "val")
    found = keypoint_ap.true_boxes(annotated)
    assert sum(map(len, found.values())) == 4
    rows = [{"image_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]
    assert keypoint_ap.detected_boxes(rows, annotated) == {2: [Box(1, 2, 3, 4, 0.5)]}
    assert annotated.skeleton is COCO


def plain_copy(root: Path, change) -> Path:
    """The annotations of SCENES / "val" with every table changed."""
    for folder in ("images", "keypoints"):
        (root / folder).mkdir(parents=True)
    for file in (SCENES / "val" / "images").iterdir():
        (root / "images" / file.name).write_bytes(file.read_bytes())
    for file in (SCENES / "val" / "keypoints").iterdir():
        table = json.loads(file.read_text())
        change(table)
        (root / "keypoints" / file.name).write_text(json.dumps(table))
    return root


def bare(table) -> None:
    """What the plain layout asks for, and no more."""
    table["annotations"] = [{key: row[key] for key in ("bbox", "keypoints")} for row in table["annotations"]]


def another_category(table) -> None:
    """People are number 7, and there are chairs, without keypoints."""
    person = {**table["categories"][0], "id": 7}
    table["categories"] = [{"id": 2, "name": "chair"}, person]
    people = [{**row, "category_id": 7} for row in table["annotations"]]
    table["annotations"] = [{"id": 99, "category_id": 2, "bbox": [0, 0, 9, 9]}, *people]


@pytest.mark.parametrize("change", [bare, another_category])
def test_whatever_a_file_may_leave_out_or_add_a_perfect_prediction_has_an_ap_of_one(tmp_path, change):
    pytest.importorskip("pycocotools")
    annotated = keypoint_ap.from_folder(plain_copy(tmp_path, change))
    assert sum(map(len, keypoint_ap.true_boxes(annotated).values())) == 4
    assert keypoint_ap.average_precision(annotated, guesses(annotated, 0.0))["AP"] == 1
    (category,) = annotated.table["categories"]
    assert category["id"] == annotated.category == {row["category_id"] for row in annotated.table["annotations"]}.pop()
    row = annotated.table["annotations"][0]
    assert row["num_keypoints"] == sum(seen > 0 for seen in row["keypoints"][2::3])
    if change is bare:
        assert (row["area"], row["iscrowd"]) == (row["bbox"][2] * row["bbox"][3], 0)


def test_results_have_the_category_of_the_file(tmp_path):
    annotated = keypoint_ap.from_folder(plain_copy(tmp_path, another_category))
    person = Person(np.zeros((17, 2)), np.ones(17), 0.5, 100.0)
    assert keypoint_ap.as_result(person, 3, annotated.category)["category_id"] == 7
    rows = [{"image_id": 1, "category_id": kind, "bbox": [kind, 2, 3, 4]} for kind in (1, 7, 62)]
    assert keypoint_ap.detected_boxes(rows, annotated) == {1: [Box(7, 2, 3, 4)]}  # no cups, no chairs


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"image_id": 99, "bbox": [1, 2, 3, 4]}], "Box 1 is of the image 99, which the annotations do not list"),
        ([{"image_id": 1}], "Box 1 has the bbox None: expected x, y, width and height in pixels."),
        ({"a.png": [[1, 2, 3, 4]]}, r"The boxes are no COCO results: expected a list"),
    ],
)
def test_boxes_that_cannot_be_used_are_told_in_one_sentence(tmp_path, capsys, rows, reason):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(rows))
    words = ["--model", "none", "--root", str(SCENES / "val"), "--boxes", str(boxes), "--out", str(tmp_path)]
    assert keypoint_ap.command(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"keypoint_ap: {reason}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": None}, "annotation 5 has the bbox None: expected x, y, width and height"),
        ({"image_id": 8}, "annotation 5 is of the image 8, which is not listed"),
        ({"keypoints": [1, 2, 2]}, "annotation 5 has other keypoints than 3 numbers for each of 17"),
    ],
)
def test_annotations_that_cannot_be_measured_are_told_in_one_sentence(tmp_path, change, reason):
    row = {"id": 5, "image_id": 1, "bbox": [1, 2, 3, 4], "keypoints": [0] * 51, **change}
    table = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [row],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.names)}],
    }
    (tmp_path / "people.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match=reason):
        keypoint_ap.from_coco(tmp_path / "people.json", tmp_path)


def test_a_model_of_other_keypoints_is_refused():
    annotated = keypoint_ap.from_folder(SCENES / "val")
    with pytest.raises(ValueError, match="keypoints predicts 3 keypoints .nose, .* but 17 are annotated"):
        keypoint_ap.check_skeleton(Recipe("keypoints", keypoints="nose, left_ear, right_ear"), annotated)
