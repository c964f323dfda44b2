"""The command line: raw values and a picture for every image, and one line for whatever a person can mend."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.crops import Box
from diffusion_perception.core.display.openpose import pose_keypoint, pose_picture
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.pose import predict_people
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.perceiver import read_upright

HEIGHT, WIDTH = 37, 50


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with two checkpoints and two photographs."""
    folder = tmp_path_factory.mktemp("place")
    tiny.write_genpercept(folder / "hub", ["unet_depth_v2", "unet_normal_v2"])
    tiny.write_own(folder / "mine.safetensors", [Recipe("depth", base="custom", resolution=48)])
    tiny.save_picture(folder / "photo.png", HEIGHT, WIDTH)
    tiny.save_picture(folder / "other.png", WIDTH, HEIGHT, seed=1)
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch, capfd):
    """Runs a command in that folder; gives its exit code and what it said on standard error."""
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str]:
        try:
            code = main([word.replace("OUT", str(tmp_path / "out")) for word in arguments])
        except SystemExit as leaving:  # argparse leaves so
            code = leaving.code
        return int(code or 0), capfd.readouterr().err

    return run


def one_line(said: str) -> str:
    """What was said, which must be one line of this program and no traceback."""
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    assert lines[0].startswith("diffusion-perception")
    return lines[0]


def written(tmp_path: Path, name: str) -> np.ndarray:
    return np.load(tmp_path / "out" / f"{name}.npy")


# What is written


def test_every_image_gets_raw_values_and_a_picture(run, tmp_path):
    code, _ = run("predict", "--model", "mine.safetensors", "--out", "OUT", "photo.png", "other.png")
    assert code == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "other.npy", "other.png", "photo.npy", "photo.png",
    ]  # fmt: skip
    values = written(tmp_path, "photo")
    assert (values.shape, values.dtype) == ((HEIGHT, WIDTH), np.float32)
    assert written(tmp_path, "other").shape == (WIDTH, HEIGHT)
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert (picture.size, picture.mode) == ((WIDTH, HEIGHT), "RGB")


def test_the_values_are_those_of_the_one_inference_path(run, tmp_path, place):
    run("predict", "--model", "mine.safetensors", "--out", "OUT", "photo.png")
    with torch.no_grad():
        expected = predict(
            load_perceiver(open_checkpoint(place / "mine.safetensors")), read_upright(place / "photo.png")
        )
    assert np.array_equal(written(tmp_path, "photo"), expected.values[0, ..., 0].numpy())


def test_maps_of_three_channels_come_with_three(run, tmp_path):
    arguments = ("--model", "hub", "--task", "normal", "--resolution", "48", "--out", "OUT", "photo.png")
    assert run("predict", *arguments)[0] == 0
    assert written(tmp_path, "photo").shape == (HEIGHT, WIDTH, 3)


def test_the_published_names_of_tasks_are_taken_too(run, tmp_path):
    assert (
        run("predict", "--model", "hub", "--task", "normals", "--resolution", "48", "--out", "OUT", "photo.png")[0] == 0
    )


def test_a_recipe_is_overridden_for_one_run(run, tmp_path):
    def values(*more: str) -> np.ndarray:
        assert run("predict", "--model", "mine.safetensors", "--out", "OUT", *more, "photo.png")[0] == 0
        return written(tmp_path, "photo")

    plain = values()
    assert not np.array_equal(values("--set", "timestep=500"), plain)
    assert np.array_equal(values("--set", "resolution=64"), values("--resolution", "64"))
    scaled = values("--set", "target_scale=8")
    assert np.allclose(scaled, plain * 8, atol=1e-5)
    steps = values(
        "--set", "paradigm=deterministic", "--set", "steps=3", "--set", "beta_start=0.5", "--set", "beta_end=0.7"
    )
    assert not np.array_equal(steps, plain)


def test_another_context_is_given_by_file_and_key(run, tmp_path, place):
    save_file({"a": tiny.context(50), "b": tiny.context(51)}, place / "contexts.safetensors")
    np.save(place / "context.npy", tiny.context(50).numpy())
    seen = []
    for given in ("contexts.safetensors:a", "contexts.safetensors:b", "context.npy"):
        assert run("predict", "--model", "mine.safetensors", "--context", given, "--out", "OUT", "photo.png")[0] == 0
        seen.append(written(tmp_path, "photo"))
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])


def test_guidance_leads_away_from_a_negative_context(run, tmp_path, place):
    np.save(place / "negative.npy", tiny.context(52).numpy())
    common = ("--model", "mine.safetensors", "--out", "OUT", "--set", "guidance_scale=2", "photo.png")
    assert run("predict", "--negative-context", "negative.npy", *common)[0] == 0
    guided = written(tmp_path, "photo")
    assert run("predict", "--model", "mine.safetensors", "--out", "OUT", "photo.png")[0] == 0
    assert not np.array_equal(guided, written(tmp_path, "photo"))


# Keypoints

BOXES = [Box(5, 4, 20, 30), Box(26, 2, 18, 33, 0.5)]


@pytest.fixture(scope="module")
def people(place) -> Path:
    """A checkpoint of keypoints beside the others, whose untrained head finds something."""
    recipe = Recipe("keypoints", base="custom", resolution=64, head="vitpose_simple")
    torch.manual_seed(5)
    head = untrained_head(recipe.head, (32, 64, 64, 64), 32, recipe.channels)
    with torch.no_grad():
        head.final_layer.weight.mul_(40)
    return tiny.write_own(place / "people.safetensors", [recipe], heads={recipe.head: head.state_dict()})


def expected_poses(
    model: Path, picture: Path, boxes: list[Box] | None, resolution: int = 64
) -> tuple[dict, np.ndarray]:
    """What the one path of poses makes of it."""
    perceiver = load_perceiver(open_checkpoint(model))
    perceiver = replace(perceiver, recipe=replace(perceiver.recipe, resolution=resolution))
    with torch.inference_mode():
        seen = predict_people(perceiver, read_upright(picture), None if boxes is None else [boxes])
    drawn, found = pose_picture(seen)
    (frame,) = pose_keypoint(found, perceiver.recipe.skeleton, (HEIGHT, WIDTH))
    return json.loads(json.dumps(frame)), (drawn[0] * 255).round().byte().numpy()


def test_of_people_a_pose_is_written_and_its_skeleton(run, tmp_path, place, people):
    photo = place / "photo.png"
    rows = {"photo.png": [list(BOXES[0][:4]), list(BOXES[1])], "other.png": []}
    (place / "boxes.json").write_text(json.dumps(rows))
    (place / "masks").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:34, 5:25] = 255
    Image.fromarray(mask).save(place / "masks" / "photo.webp", lossless=True)
    cases = [
        ((), None, 64),
        (("--boxes", "boxes.json"), BOXES, 64),
        (("--mask", "masks"), BOXES[:1], 64),
        (("--mask", "masks", "--resolution", "96"), BOXES[:1], 96),
    ]
    for words, boxes, resolution in cases:
        assert run("predict", "--model", "people.safetensors", "--out", "OUT", *words, "photo.png")[0] == 0
        frame, drawn = expected_poses(people, photo, boxes, resolution)
        assert json.loads((tmp_path / "out" / "photo.json").read_text()) == frame
        assert (frame["canvas_height"], frame["canvas_width"]) == (HEIGHT, WIDTH)
        assert drawn.any()
        with Image.open(tmp_path / "out" / "photo.png") as picture:
            assert np.array_equal(np.asarray(picture), drawn)
    assert run("predict", "--model", "people.safetensors", "--out", "OUT", "--boxes", "boxes.json", "other.png")[0] == 0
    nobody = json.loads((tmp_path / "out" / "other.json").read_text())
    assert nobody == {"people": [], "canvas_height": WIDTH, "canvas_width": HEIGHT}
    assert not list(tmp_path.glob("out/*.npy"))


WRONG_PEOPLE = [
    (("--boxes", "empty.json"), "empty.json has no boxes for photo.png: add them, or [] if there is nobody in it."),
    (("--boxes", "list.json"), "list.json names no pictures: expected {picture's name:"),
    (("--boxes", "words.json"), "words.json: photo.png has 'all': expected [[x, y, width, height], ...]."),
    (("--boxes", "photo.png"), "photo.png is not JSON"),
    (("--boxes", "nowhere.json"), "nowhere.json"),
    (("--mask", "nowhere"), "There is no folder nowhere of masks"),
    (("--mask", "hub"), "hub has 0 masks for photo.png: expected one, as photo.png."),
    (("--boxes", "outside.json"), "photo.png: The box x=90 y=0 width=5 height=5 lies outside the picture of 50x37"),
    (("--resolution", "0"), "--resolution 0 is none for people"),
    (("--boxes", "empty.json", "--mask", "hub"), "--mask: not allowed with argument --boxes"),
    (("--model", "mine.safetensors", "--boxes", "good.json"), "say where people are, but depth predicts depth"),
]


@pytest.mark.parametrize(("words", "reason"), WRONG_PEOPLE, ids=[" ".join(words) for words, _ in WRONG_PEOPLE])
def test_people_who_cannot_be_found_are_told_in_one_line(run, place, people, words, reason):
    contents = {"empty": {}, "list": [[1, 2, 3, 4]], "words": {"photo.png": "all"}}
    contents |= {"outside": {"photo.png": [[90, 0, 5, 5]]}, "good": {"photo.png": [[1, 2, 3, 4]]}}
    for name, content in contents.items():
        (place / f"{name}.json").write_text(json.dumps(content))
    model = () if "--model" in words else ("--model", "people.safetensors")
    code, said = run("predict", *model, "--out", "OUT", *words, "photo.png")
    assert code == 2
    assert "Traceback" not in said
    assert reason in said.splitlines()[-1]


# Images


def test_a_photograph_is_read_upright(tmp_path):
    path = tiny.save_picture(tmp_path / "x.jpg", 20, 30)
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # turned by a quarter
        image.save(path, exif=exif)
    assert read_upright(path).shape == (1, 3, 30, 20)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_every_mode_are_read_as_colours(tmp_path, mode):
    file = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.fromarray(tiny.expected_levels(tiny.picture(20, 30))).convert(mode).save(file)
    seen = read_upright(file)
    assert (seen.shape, seen.dtype) == ((1, 3, 20, 30), torch.float32)
    assert 0 <= seen.min() < seen.max() <= 1


def test_grey_of_sixteen_bits_is_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.png")
    seen = read_upright(tmp_path / "x.png")
    assert np.allclose(seen[0, 1].numpy(), levels / 65535)


# What a person can mend


def test_a_missing_image_is_told_before_anything_is_loaded(run):
    code, said = run("predict", "--model", "missing.safetensors", "--out", "OUT", "photo.png", "nowhere.png")
    assert code == 2
    assert "There is no image nowhere.png: check the path" in one_line(said)


def test_images_whose_results_would_overwrite_each_other_are_refused(run):
    code, said = run("predict", "--model", "mine.safetensors", "--out", "OUT", "photo.png", "./photo.png")
    assert code == 2
    assert "Several images are called 'photo', and so would their results be: run them apart" in one_line(said)


def test_a_file_that_is_no_image_is_told_by_its_name(run, place, capfd):
    (place / "text.png").write_text("I am a text.")
    code, said = run("predict", "--model", "mine.safetensors", "--out", "OUT", "text.png")
    assert code == 2
    assert "text.png is not an image that can be read: give a PNG, JPEG, WebP or TIFF" in said.splitlines()[-1]


def test_a_truncated_image_is_told_by_its_name(run, place):
    content = (place / "photo.png").read_bytes()
    (place / "cut.png").write_bytes(content[: len(content) // 2])
    code, said = run("predict", "--model", "mine.safetensors", "--out", "OUT", "cut.png")
    assert code == 2
    assert "cut.png is not a readable image" in said.splitlines()[-1]


def test_an_image_that_is_too_small_says_what_is_not(run, place):
    tiny.save_picture(place / "small.png", 15, 40)
    code, said = run("predict", "--model", "mine.safetensors", "--out", "OUT", "small.png")
    assert code == 2
    assert "The image is 40x15 pixels; the smallest that can be perceived is 16x16" in said.splitlines()[-1]


REFUSED = [
    (("--set", "stpes=4"), "A recipe has no field 'stpes': did you mean 'steps'?"),
    (("--set", "steps"), "'steps' is not an assignment: write FIELD=VALUE"),
    (("--set", "steps=4"), "set paradigm=deterministic for more"),
    (("--set", "paradigm=stochastic"), "The network takes 4 input channels and its paradigm gives it 8"),
    (("--set", "prediction_type=epsilon"), "prediction_type=epsilon needs a schedule that leaves some signal"),
    (("--set", "guidance_scale=3", "--context", "narrow.npy"), "holds a text context of shape (1, 2, 32)"),
    (("--task", "normal"), "mine.safetensors was trained for depth, not for normal"),
    (("--context", "nowhere.npy"), "There is no text embedding nowhere.npy"),
    (("--resolution", "-7"), "resolution=-7 is not -1"),
    (("--device", "toaster"), "Device 'toaster' cannot be used"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_input_is_told_in_one_line_and_leaves_with_two(run, place, tmp_path, arguments, reason):
    np.save(place / "narrow.npy", tiny.context(width=32).numpy())
    code, said = run("predict", "--model", "mine.safetensors", "--out", "OUT", *arguments, "photo.png")
    assert code == 2
    assert "Traceback" not in said
    assert reason in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("diffusion-perception: ")
    assert not list(tmp_path.glob("out/*.npy"))


MODELS = [
    ("nowhere.safetensors", "There is no file"),
    ("photo.safetensors", "photo.safetensors is not a whole .safetensors file"),
    ("hub", "hub holds several tasks (depth, normal): name one of them"),
    ("empty", "empty holds no UNet: expected unet/"),
    (
        "plain.safetensors",
        "plain.safetensors is a UNet with 4 input channels and nothing beside it says how it was trained",
    ),
]


@pytest.mark.parametrize(("model", "reason"), MODELS, ids=[model for model, _ in MODELS])
def test_a_model_that_cannot_be_used_is_told_in_one_line(run, place, model, reason):
    (place / "empty").mkdir(exist_ok=True)
    (place / "photo.safetensors").write_bytes((place / "photo.png").read_bytes())
    if model == "plain.safetensors":
        tiny.write(place, tiny.unet(), model)
    for command in (("predict", "--model", model, "--out", "OUT", "photo.png"), ("info", model)):
        code, said = run(*command)
        if command[0] == "info" and model in ("hub", "plain.safetensors"):
            assert code == 0  # which says what is known
        else:
            assert code == 2
            assert reason in one_line(said)


def test_a_checkpoint_whose_weights_do_not_fit_is_told_in_one_line(run, place):
    tiny.write_genpercept(place / "broken-depth", ["unet_depth_v2"])
    tensors = dict(tiny.unet().state_dict())
    del tensors["conv_in.bias"]
    save_file(tensors, place / "broken-depth" / "unet_depth_v2" / tiny.WEIGHTS)
    code, said = run("predict", "--model", "broken-depth", "--out", "OUT", "photo.png")
    assert code == 2
    assert "1 weights are missing or misshapen, 0 are unknown (conv_in.bias ...)" in one_line(said)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(run, place):
    code, said = run("predict", "--model", "mine.safetensors", "--out", "photo.png", "photo.png")
    assert code == 2
    assert "photo.png" in one_line(said)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("predict", "--model", "x", "photo.png"), "the following arguments are required: --out"),
        (("predict", "--model", "x", "--out", "OUT", "--resolution", "big", "photo.png"), "invalid int value: 'big'"),
        (("foresee",), "invalid choice: 'foresee'"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(run, arguments, reason):
    code, said = run(*arguments)
    assert code == 2
    assert reason in one_line(said)
    assert "see --help" in said


# info


def test_info_says_what_a_checkpoint_holds(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["info", "mine.safetensors"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == "mine.safetensors"
    (row,) = told["checkpoints"]
    assert (row["id"], row["recipe"]["resolution"], row["context"]) == ("depth", 48, "(1, 2, 64)")


def test_info_lists_every_network_of_a_repository(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["info", "hub"]) == 0
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [row["id"] for row in rows] == ["depth", "normal"]


def test_info_takes_a_vae_alone(tmp_path, capsys):
    assert main(["info", str(tiny.write(tmp_path / "vae", tiny.vae()))]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["vae"]["widths"]) == ("vae", [32, 32, 64, 64])
    assert "quant_conv.weight" in told["vae"]["latents"]


# Help


LIGHT = """
import contextlib, io, sys
from diffusion_perception.trainer import cli
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
    cli.main({arguments})
heavy = [name for name in ("torch", "diffusers", "transformers", "cv2", "scipy") if name in sys.modules]
print("usage: diffusion-perception" in said.getvalue(), heavy)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], *([verb, "--help"] for verb in ("predict", "info", "evaluate", "check"))]
)
def test_help_answers_without_anything_heavy(arguments):
    script = LIGHT.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == ["True", "[]\n"]


def test_it_also_runs_as_a_module(place):
    command = [sys.executable, "-m", "diffusion_perception.trainer", "info", "nowhere.safetensors"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
    assert run.returncode == 2
    assert "There is no file" in one_line(run.stderr)
