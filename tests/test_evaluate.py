"""Evaluate: the figures are those that numpy makes of the same predictions, whoever measures them and how often."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion_perception.core.errors import UserError
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer import scoring
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.data.arrays import BrokenRecord
from diffusion_perception.trainer.data.records import Sample
from diffusion_perception.trainer.data.tasks import TASK_DATA
from diffusion_perception.trainer.evaluate import finite
from diffusion_perception.trainer.evaluation.foreign import open_onnx, open_transformers
from diffusion_perception.trainer.evaluation.sets import feed_of, set_named
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.trainer.scoring import Ruler, metric_named, score

PICTURES = 3
OLD = Path(__file__).with_name("contracts") / "files"
MODEL = "mine.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Balls before walls, and a checkpoint of depth and normals."""
    folder = tmp_path_factory.mktemp("place")
    runs.write_balls(folder / "balls", PICTURES, holes=True)
    recipes = [Recipe("depth", base="custom", resolution=48), Recipe("normal", base="custom", resolution=48)]
    tiny.write_own(folder / MODEL, recipes)
    return folder


@pytest.fixture
def evaluate(place, tmp_path, monkeypatch, capfd):
    """Runs the command in that folder; gives its exit code and what it said on standard error."""
    monkeypatch.chdir(place)

    def run(*words: str) -> tuple[int, str]:
        code = main(["evaluate", *words, "--out", str(tmp_path / "out"), "--device", "cpu"])
        return code, capfd.readouterr().err

    return run


def found(out: Path, task: str, comparison: str, model: str = MODEL) -> dict:
    """The one row of evaluation.json that fits."""
    rows = json.loads((out / "evaluation.json").read_text("utf-8"))["results"]
    (row,) = [r for r in rows if (r["task"], r["comparison"], r["model"]) == (task, comparison, model)]
    return row


# Figures


def test_depth_is_aligned_by_numpys_least_squares_and_averaged_over_pictures(place, evaluate, tmp_path):
    code, _ = evaluate(MODEL, "--data", "balls", "--task", "depth")
    assert code == 0
    perceiver = open_perceiver(place / MODEL, task="depth", device="cpu")
    errors = []
    for index in range(PICTURES):
        guess = perceiver(place / f"balls/images/{index:03}.png").values[0, ..., 0].double().numpy()
        depth = np.load(place / f"balls/depth/{index:03}.npy").astype(np.float64)
        known = np.asarray(Image.open(place / f"balls/valid/{index:03}.png")) > 0
        design = np.stack([guess[known], np.ones(known.sum())], 1)
        (scale, shift), *_ = np.linalg.lstsq(design, depth[known], rcond=None)
        aligned = np.maximum(guess * scale + shift, 1e-6)[known]
        errors.append(np.mean(np.abs(aligned - depth[known]) / depth[known]))
    row = found(tmp_path / "out", "depth", "aligned")
    assert row["metrics"]["abs-rel"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert row["pictures"] == PICTURES
    with (tmp_path / "out/pictures.csv").open(encoding="utf-8") as file:
        each = [float(r["value"]) for r in csv.DictReader(file) if r["metric"] == "abs-rel"]
    assert each == pytest.approx(errors, rel=1e-6)


def test_normals_are_pooled_for_one_protocol_and_averaged_over_pictures_for_the_other(place, evaluate, tmp_path):
    evaluate(MODEL, "--data", "balls", "--task", "normal")
    perceiver = open_perceiver(place / MODEL, task="normal", device="cpu")
    angles = []
    for index in range(PICTURES):
        guess = perceiver(place / f"balls/images/{index:03}.png").values[0].double().numpy() * 2 - 1
        truth = np.load(place / f"balls/normal/{index:03}.npy").astype(np.float64)
        known = np.asarray(Image.open(place / f"balls/valid/{index:03}.png")) > 0
        lengths = np.linalg.norm(guess, axis=-1) * np.linalg.norm(truth, axis=-1)
        angles.append(np.degrees(np.arccos(((guess * truth).sum(-1) / lengths).clip(-1, 1)))[known])
    pooled, averaged = (found(tmp_path / "out", "normal", name) for name in ("pooled", "per-image"))
    assert pooled["metrics"]["mean-angle"] == pytest.approx(np.concatenate(angles).mean(), rel=1e-5)
    assert averaged["metrics"]["mean-angle-per-image"] == pytest.approx(np.mean([a.mean() for a in angles]), rel=1e-5)
    assert set(pooled["metrics"]).isdisjoint(averaged["metrics"])
    assert pooled["protocol"] != averaged["protocol"]


def test_lighting_is_known_up_to_a_factor_and_compared_at_one_brightness(place):
    """By numpy's least squares and percentile, as Marigold's evaluation has it."""
    draw = np.random.default_rng(4)
    records = set_named(str(place / "balls")).open("shading")
    sample = records[1]
    feed = feed_of(set_named(str(place / "balls")), records, Recipe("shading", encoding="linear"))
    guess = 0.3 * sample.target.numpy() * draw.uniform(0.7, 1.3, sample.target.shape)
    known = np.broadcast_to(sample.valid.numpy(), guess.shape)
    truth = sample.target.numpy().astype(np.float64)
    (factor,), *_ = np.linalg.lstsq(guess[known][:, None], truth[known], rcond=None)
    bright = np.percentile((truth.T @ [0.3, 0.59, 0.11]).T[sample.valid[0].numpy()], 90)
    shown = [np.clip(each * 0.8 / bright, 0, 1) for each in (guess * factor, truth)]
    expected = -10 * np.log10(np.mean((shown[0] - shown[1])[known] ** 2))
    row = next(row for row in TASK_DATA["shading"].compared() if row.name == "marigold")
    values = torch.from_numpy(guess)[None]
    parts = Ruler(("psnr",), row.prepare).measure(values, sample, feed)
    assert parts is not None
    assert metric_named("psnr").value(parts["psnr"]) == pytest.approx(expected, rel=1e-6)
    brighter = Ruler(("psnr",), row.prepare).measure(5 * values, sample, feed)
    assert brighter is not None
    assert metric_named("psnr").value(brighter["psnr"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task", TASK_DATA)
def test_every_task_is_compared_by_metrics_that_there_are_and_protocols_that_say_whose_they_are(task):
    rows = TASK_DATA[task].compared()
    assert all(metric_named(name).name == name for row in rows for name in row.metrics)
    assert len({row.name for row in rows}) == len({row.title for row in rows}) == len(rows)
    named = [name for row in rows for name in row.metrics if "angle" in name and row.name != "dmp"]
    assert len(named) == len(set(named))


def test_a_baseline_is_measured_where_a_model_is_and_by_itself_wherever_it_has_a_guess(evaluate, tmp_path):
    evaluate(MODEL, "constant", "image-row", "--data", "balls", "--task", "depth")
    constant = found(tmp_path / "out", "depth", "aligned", "constant")["metrics"]
    # once aligned, a constant is the mean depth: no error correlates with anything
    assert constant["abs-rel"] > 0
    pytest.importorskip("skimage")  # of masks HCE needs it
    evaluate("constant", "--data", "balls")
    rows = json.loads((tmp_path / "out/evaluation.json").read_text())["results"]
    assert {row["task"] for row in rows} == set(TASKS) - {"segmentation", "keypoints"}


# The same figures again


def test_two_runs_give_the_same_bytes_and_the_second_measures_nothing_anew(evaluate, tmp_path, monkeypatch):
    evaluate(MODEL, "--data", "balls")
    first = (tmp_path / "out/evaluation.json").read_bytes()
    lines = {path: path.read_bytes() for path in (tmp_path / "out/measured").rglob("*.jsonl")}
    evaluate(MODEL, "--data", "balls")
    assert (tmp_path / "out/evaluation.json").read_bytes() == first
    assert {path: path.read_bytes() for path in (tmp_path / "out/measured").rglob("*.jsonl")} == lines
    shutil.rmtree(tmp_path / "out")
    evaluate(MODEL, "--data", "balls")
    assert (tmp_path / "out/evaluation.json").read_bytes() == first


def test_a_run_that_was_killed_within_a_line_goes_on_from_there(evaluate, tmp_path):
    evaluate(MODEL, "--data", "balls", "--task", "depth")
    whole = (tmp_path / "out/evaluation.json").read_bytes()
    (lines,) = (tmp_path / "out/measured").rglob("*.jsonl")
    text = lines.read_text()
    lines.write_text(text[: text.index("\n") + 50])
    evaluate(MODEL, "--data", "balls", "--task", "depth")
    assert (tmp_path / "out/evaluation.json").read_bytes() == whole
    assert lines.read_text().count('"index": 0') == 1


def test_a_picture_that_has_changed_is_measured_again(place, evaluate, tmp_path):
    evaluate("constant", "--data", "balls", "--task", "depth")
    before = found(tmp_path / "out", "depth", "aligned", "constant")["metrics"]
    file = place / "balls/depth/001.npy"
    kept = file.read_bytes()
    try:
        np.save(file, np.load(file) ** 2)
        evaluate("constant", "--data", "balls", "--task", "depth")
        assert found(tmp_path / "out", "depth", "aligned", "constant")["metrics"] != before
    finally:
        file.write_bytes(kept)


def as_rank(rank: int, port: str, place: Path, out: Path) -> None:
    """One of two processes of a launch, in a fork of this one: nothing is imported again."""
    from accelerate import PartialState

    PartialState._reset_state()
    # else accelerate chooses another number of threads, and with it the last bits
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.chdir(place)
    sys.exit(main(["evaluate", MODEL, "constant", "--data", "balls", "--out", str(out), "--device", "cpu"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its processes as forks")
def test_two_processes_find_what_one_finds(place, evaluate, tmp_path):
    evaluate(MODEL, "constant", "--data", "balls")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch = multiprocessing.get_context("fork")
    ranks = [launch.Process(target=as_rank, args=(i, port, place, tmp_path / "two")) for i in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    for name in ("evaluation.json", "evaluation.csv", "pictures.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    by_process = [len(list((tmp_path / "two/measured").rglob(f"{i}.jsonl"))) for i in range(2)]
    assert min(by_process) > 0


# What cannot be measured


def test_broken_pictures_and_truth_without_a_valid_pixel_are_named_and_the_others_measured(place, evaluate, tmp_path):
    root = shutil.copytree(place / "balls", tmp_path / "many")
    for index in range(3, 8):
        for kind in ("images", "depth", "valid"):
            source = next((root / kind).glob("000.*"))
            shutil.copy(source, source.with_name(f"{index:03}{source.suffix}"))
    (root / "images/004.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    np.save(root / "depth/006.npy", np.zeros((runs.SIZE, runs.SIZE), np.float32))
    (root / "depth/007.npy").unlink()
    code, said = evaluate("constant", "--data", str(root), "--task", "depth")
    row = found(tmp_path / "out", "depth", "aligned", "constant")
    assert code == 1
    assert row["pictures"] == 5
    assert len(row["left_out"]) == 3
    for name in ("004.png", "006", "007"):
        assert any(name in each["record"] + each["why"] for each in row["left_out"])
        assert sum("not measured" in line and name in line for line in said.splitlines()) == 1
    assert "Traceback" not in said


def test_a_set_that_is_mostly_broken_stops_the_run_before_it_begins(place, evaluate, tmp_path):
    root = shutil.copytree(place / "balls", tmp_path / "broken")
    for index in range(2):
        (root / f"depth/{index:03}.npy").write_bytes(b"")
    code, said = evaluate("constant", "--data", "balls", str(root), "--task", "depth", "--task", "normal")
    assert code == 2
    assert "2 of 3 records are broken" in said
    assert not (tmp_path / "out").exists()


def test_a_prediction_that_is_no_number_is_named_and_has_no_figure(place, evaluate, tmp_path):
    spoiled = tmp_path / "spoiled.safetensors"
    tensors = load_file(place / MODEL)
    with safe_open(place / MODEL, "pt") as file:
        about = file.metadata()
    save_file({**tensors, "unet.conv_out.bias": tensors["unet.conv_out.bias"] * float("nan")}, spoiled, about)
    code, said = evaluate(str(spoiled), "--data", "balls", "--task", "normal")
    assert code == 1
    assert said.count("no numbers") == PICTURES
    row = found(tmp_path / "out", "normal", "pooled", str(spoiled))
    assert (row["pictures"], row["metrics"]["mean-angle"]) == (0, None)


def test_a_prediction_need_be_finite_only_where_there_is_truth():
    valid = torch.tensor([[[True, False, True]]])
    sample = Sample(torch.zeros(3, 1, 3), torch.ones(1, 1, 3), valid, {"record": "kitchen"})
    values = torch.tensor([[[[0.5, torch.nan, 0.5]]]])
    assert torch.equal(finite(values, sample)[..., ::2], values[..., ::2])
    with pytest.raises(BrokenRecord, match="kitchen: the prediction holds 1 values that are no numbers"):
        finite(values.roll(1, -1), sample)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("nowhere.safetensors", "--data", "balls"), "There is no model nowhere.safetensors"),
        ((MODEL, "--data", "nowhere"), "There is no folder nowhere"),
        ((MODEL, "--data", "balls", "--images", "-1"), "give 0 or more"),
        ((MODEL, "--data", "foldr:balls"), "did you mean 'folder'?"),
        ((MODEL, "--data", "folder:balls,names"), "'names' is no KEY=VALUE"),
        ((MODEL, "--data", "folder:balls,colour=red"), "settings of the reader 'folder' do not fit"),
        ((MODEL, "--data", "balls", "--task", "mask"), "predicts depth, normal, not mask"),
        ((MODEL, "--data", "balls", "--task", "smell"), "Unknown task 'smell'"),
        ((MODEL, "--data", "p3m10k:nowhere,split=P3M-500-NP"), "It holds 500 pictures with truth."),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(evaluate, words, reason):
    code, said = evaluate(*words)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert reason in said


def test_a_metric_says_which_package_it_lacks(evaluate, monkeypatch):
    monkeypatch.setitem(scoring.NEEDS, "hce", ("no_such_package", "no-such-package"))
    code, said = evaluate("constant", "--data", "balls", "--task", "mask")
    assert (code, len(said.splitlines())) == (2, 1)
    assert "pip install no-such-package" in said


# The report


def test_the_report_needs_no_network_and_shows_every_model_with_its_pictures(evaluate, tmp_path):
    evaluate(MODEL, "constant", "--data", "balls", "--task", "depth", "--examples", "1")
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert not any(word in page for word in ("http:", "https:", "<script", "<link", "@import"))
    assert page.count("<h2") == 2  # one protocol, and the models
    # input, prediction, truth and error, of a best and a worst, of two models
    assert page.count('src="data:image/') == 16
    assert page.count("<svg") == 2
    assert "scale and shift of each picture&#x27;s depth by least squares" in page


def test_pictures_of_a_task_with_one_protocol_are_shown_too(evaluate, tmp_path):
    evaluate("constant", "--data", "balls", "--task", "roughness", "--examples", "1")
    assert (tmp_path / "out/report.html").read_text("utf-8").count('src="data:image/') == 8


def test_a_folder_may_have_a_comma_in_its_name(place, evaluate, tmp_path):
    shutil.copytree(place / "balls", tmp_path / "a,b=c")
    code, _ = evaluate("constant", "--data", str(tmp_path / "a,b=c"), "--task", "depth", "--examples", "0")
    assert code == 0


def test_other_peoples_names_cannot_break_the_report(place, evaluate, tmp_path):
    shutil.copytree(place / "balls", tmp_path / "<script>alert(1)")
    evaluate("constant", "--data", str(tmp_path / "<script>alert(1)"), "--task", "depth", "--examples", "0")
    assert "<script" not in (tmp_path / "out/report.html").read_text("utf-8")


def test_an_adapter_is_measured_on_its_base(place, evaluate, tmp_path):
    with tarfile.open(next(OLD.glob("*.tar.xz"))) as tar:
        tar.extractall(tmp_path, filter="data")
    base, adapter = (str(tmp_path / f"{name}.safetensors") for name in ("checkpoint", "extracted"))
    code, said = evaluate(adapter, "--base", base, "--data", "balls", "--task", "depth", "--resolution", "128")
    assert code == 0, said
    perceiver = open_perceiver(adapter, base=base, task="depth", device="cpu")
    named = set_named("balls")
    records = named.open("depth")
    feed = feed_of(named, records, perceiver.recipe)
    seen = [perceiver(records[index].image, resolution=128).values.movedim(-1, 1) for index in range(PICTURES)]
    expected = score(("abs-rel",), [(values, records[index], feed) for index, values in enumerate(seen)])
    row = found(tmp_path / "out", "depth", "aligned", adapter)
    assert row["metrics"]["abs-rel"] == pytest.approx(expected["abs-rel"], rel=1e-9)


# Other people's models


def test_an_onnx_model_is_read_as_its_toml_says(place, evaluate, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    # the mean of the colours, as disparity
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    made = helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, 1, "h", "w"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceMean", ["image", "axes"], ["values"], keepdims=1)
    graph = helper.make_graph([node], "mean", [given], [made], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "grey.onnx")
    (tmp_path / "grey.toml").write_text('task = "disparity"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n')
    code, _ = evaluate(str(tmp_path / "grey.onnx"), "--data", "balls")
    assert code == 0
    errors = []
    for index in range(PICTURES):
        grey = np.asarray(Image.open(place / f"balls/images/{index:03}.png")).astype(np.float64).mean(-1) / 255
        depth = np.load(place / f"balls/disparity/{index:03}.npy").astype(np.float64)
        known = np.asarray(Image.open(place / f"balls/valid/{index:03}.png")) > 0
        design = np.stack([grey[known], np.ones(known.sum())], 1)
        (scale, shift), *_ = np.linalg.lstsq(design, depth[known], rcond=None)
        aligned = 1 / np.maximum(grey * scale + shift, 1e-3)[known]
        errors.append(np.mean(np.abs(aligned - 1 / depth[known]) * depth[known]))
    row = found(tmp_path / "out", "disparity", "aligned", str(tmp_path / "grey.onnx"))
    assert row["metrics"]["abs-rel"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_an_onnx_model_without_its_toml_is_refused(evaluate, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "alone.onnx").write_bytes(b"0")
    code, said = evaluate(str(tmp_path / "alone.onnx"), "--data", "balls")
    assert (code, len(said.splitlines())) == (2, 1)
    assert "alone.toml beside it" in said


def test_a_depth_model_of_transformers_is_disparity_unless_it_is_one_of_those_in_metres(evaluate, tmp_path):
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(tmp_path / "dpt")
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dpt")
    code, said = evaluate(str(tmp_path / "dpt"), "--data", "balls")
    assert code == 0, said
    row = found(tmp_path / "out", "disparity", "aligned", str(tmp_path / "dpt"))
    assert row["metrics"]["abs-rel"] > 0
    assert "then inverted" in row["protocol"]


def test_an_onnx_model_of_classes_is_read_by_the_output_and_the_order_of_colours_that_its_toml_names(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    # the colours themselves as scores, as a second output; the first is nothing
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"]) for name in ("zero", "scores")]
    nodes = [
        helper.make_node("Sub", ["image", "image"], ["zero"]),
        helper.make_node("Identity", ["image"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "scores", [given], outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "three.onnx"
    )
    said = 'classes = ["b", "g", "r"]\ntask = "segmentation"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
    (tmp_path / "three.toml").write_text(said + 'colours = "bgr"\noutput = "scores"\n')
    recipe, on, _ = open_onnx(tmp_path / "three.onnx")
    image = torch.rand(1, 3, 5, 7)
    assert torch.equal(on("cpu")(image, -1), 2 - image.argmax(1, keepdim=True).float())
    assert [row.split()[1] for row in recipe.palette.split(", ")] == ["b", "g", "r"]
    (tmp_path / "three.toml").write_text(said + 'output = "other"\n')
    with pytest.raises(UserError, match="zero, scores"):
        open_onnx(tmp_path / "three.onnx")[1]("cpu")


def test_a_segmenter_of_transformers_gives_its_own_classes(tmp_path):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], num_attention_heads=[1], patch_sizes=[3],
        strides=[2], mlp_ratios=[1], decoder_hidden_size=8, id2label={0: "wall", 1: "floor", 2: "ball"},
        label2id={"wall": 0, "floor": 1, "ball": 2},
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(tmp_path)
    processor = SegformerImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    recipe, on, _ = open_transformers(tmp_path)
    image = (torch.rand(1, 3, 24, 40) * 255).round() / 255
    picture = Image.fromarray((image[0].movedim(0, -1) * 255).round().byte().numpy())
    with torch.no_grad():
        answer = model(**processor(images=picture, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(answer, target_sizes=[(24, 40)])
    assert torch.equal(on("cpu")(image, -1)[0, 0].long(), expected)
    assert [row.split()[1] for row in recipe.palette.split(", ")] == ["wall", "floor", "ball"]
