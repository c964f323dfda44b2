"""Label: what teachers said is in the files of a plain folder, and every stage goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import guides
import numpy as np
import pytest
import runs
import tiny
import torch
from PIL import Image

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.trainer.labelling.plan import read_plan

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PICTURES = 4


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Balls as bare pictures, with one in a subfolder, and a checkpoint; the working directory."""
    monkeypatch.chdir(tmp_path)
    runs.write_balls(tmp_path / "balls", PICTURES)
    (tmp_path / "balls/images/003.png").rename((sub := tmp_path / "balls/images/more").mkdir() or sub / "003.png")
    recipes = [
        Recipe("normal", base="custom", resolution=48, axes=("right", "up", "back")),
        Recipe("depth", base="custom", resolution=48),
    ]
    tiny.write_own(tmp_path / "mine.safetensors", recipes)
    write_channel(tmp_path / "red", 0)
    write_channel(tmp_path / "green", 1)
    return tmp_path


def write_channel(path: Path, channel: int, task: str = "matte") -> None:
    """An ONNX model that sees one colour of the picture."""
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    made = helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, 1, "h", "w"])
    index = helper.make_tensor("index", TensorProto.INT64, [1], [channel])
    node = helper.make_node("Gather", ["image", "index"], ["values"], axis=1)
    graph = helper.make_graph([node], "one", [given], [made], [index])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path.with_suffix(".onnx"))
    path.with_suffix(".toml").write_text(f'task = "{task}"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n')


def label(text: str) -> int:
    Path("label.toml").write_text('out = "made"\n' + text)
    return main(["label", "label.toml", "--device", "cpu"])


FROM_FOLDER = '[pictures]\nfolder = "balls/images"\n'
RED = '[[teacher]]\nmodel = "red.onnx"\n'


def rows(out: str = "made") -> list[dict]:
    return [json.loads(line) for line in Path(out, "provenance.jsonl").read_text("utf-8").splitlines()]


def everything(folder: str) -> dict[str, tuple[int, bytes]]:
    """{file: when it was written, and what}."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_an_onnx_teacher_labels_a_folder_as_pixels_say(place):
    assert label(FROM_FOLDER + RED) == 0
    for stem in ("000", "001", "002", "more/003"):
        picture = np.asarray(Image.open(f"balls/images/{stem}.png"))
        assert np.array_equal(np.asarray(Image.open(f"made/matte/{stem}.png")), picture[..., 0])
        assert Path(f"made/images/{stem}.png").read_bytes() == Path(f"balls/images/{stem}.png").read_bytes()
    assert [row["kept"] for row in rows()] == [True] * PICTURES
    assert rows()[3]["labels"] == {"matte/more/003.png": "red.onnx"}
    plan = json.loads(Path("made/label/plan.json").read_text())
    for name in ("red.onnx", "red.toml"):
        assert plan["sha256"][name] == hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_a_checkpoints_normals_and_depth_come_back_as_it_predicted_them(place):
    teachers = "".join(f'[[teacher]]\nmodel = "mine.safetensors"\ntask = "{task}"\n' for task in ("normal", "depth"))
    assert label(FROM_FOLDER + teachers) == 0
    normals, depths = (open_dataset("folder", task, root="made") for task in ("normal", "depth"))
    for index in range(len(normals)):
        stem = normals.records[index].stem
        raw = open_perceiver("mine.safetensors", task="normal")(f"balls/images/{stem}.png").values[0] * 2 - 1
        seen = normals[index]
        angle = torch.cosine_similarity(raw.movedim(-1, 0), seen.target, 0)[seen.valid[0]].clamp(-1, 1).acos()
        assert angle.rad2deg().max() < 0.05
        far = open_perceiver("mine.safetensors", task="depth")(f"balls/images/{stem}.png").values[0, ..., 0]
        where = depths[index].valid[0]
        assert torch.equal(depths[index].target[0][where], far[where])
    assert normals.convention.axes == ("right", "up", "back")
    assert not depths.convention.metric


def test_pictures_that_a_second_teacher_sees_otherwise_are_moved_away(place):
    apart = {}
    for stem in ("000", "001", "002", "more/003"):
        colours = np.asarray(Image.open(f"balls/images/{stem}.png")).astype(float) / 255
        apart[stem] = np.abs(colours[..., 0] - colours[..., 1]).mean()
    limit = sorted(apart.values())[1] + 1e-4
    second = f'[[agreement]]\nmodel = "green.onnx"\nmetric = "mad"\nlimit = {limit}\n'
    assert label(FROM_FOLDER + RED + second) == 0
    kept = {stem for stem, value in apart.items() if value <= limit}
    assert {row["image"] for row in rows() if row["kept"]} == {f"images/{stem}.png" for stem in kept}
    for stem in apart:
        root = "made" if stem in kept else "made/label/left-out"
        assert Path(root, f"images/{stem}.png").exists()
        assert Path(root, f"matte/{stem}.png").exists()
    assert len(open_dataset("folder", "matte", root="made")) == 2
    said = {row["image"]: row["agreement"][0] for row in rows()}
    assert {stem: said[f"images/{stem}.png"]["mad"] for stem in apart} == pytest.approx(apart, abs=1e-5)
    assert said["images/000.png"]["by"] == "green.onnx"
    # nothing is done twice, what was left out included
    before = everything("made/label") | everything("made/matte")
    assert label(FROM_FOLDER + RED + second) == 0
    assert everything("made/label") | everything("made/matte") == before


def test_maps_known_up_to_scale_and_shift_agree_by_correlation(place):
    write_channel(place / "red", 0, "disparity")
    write_channel(place / "green", 1, "disparity")
    second = '[[agreement]]\nmodel = "green.onnx"\nmetric = "correlation"\nlimit = -1.0\n'
    assert label(FROM_FOLDER + RED + second) == 0
    for row in rows():
        colours = np.asarray(Image.open("balls/" + row["image"])).astype(np.float64)
        expected = np.corrcoef(colours[..., 0].ravel(), colours[..., 1].ravel())[0, 1]
        assert row["agreement"][0]["correlation"] == pytest.approx(expected, abs=1e-6)


def test_a_run_that_was_killed_goes_on_and_does_nothing_twice(place):
    second = '[[agreement]]\nmodel = "green.onnx"\nmetric = "mad"\nlimit = 1.0\n'
    assert label(FROM_FOLDER + RED + second) == 0
    whole = {name: content for name, (_, content) in everything("made").items()}
    # as a kill leaves it: a label and a picture are not there yet, and a line is cut off
    Path("made/matte/more/003.png").unlink()
    Path("made/images/more/003.png").unlink()
    Path("made/provenance.jsonl").unlink()
    journal = Path("made/label/agreement-0.jsonl")
    journal.write_bytes(journal.read_bytes()[:-20])
    before = everything("made")
    assert label(FROM_FOLDER + RED + second) == 0
    after = everything("made")
    assert {n: c for n, (_, c) in after.items() if n != journal.as_posix()} == {
        n: c for n, c in whole.items() if n != journal.as_posix()
    }
    lines = [json.loads(line) for line in journal.read_bytes().splitlines() if line.endswith(b"}")]
    assert [line["picture"] for line in lines] == ["000", "001", "002", "more/003"]
    rewritten = {name for name in before if before[name][0] != after[name][0]}
    assert rewritten == {journal.as_posix(), "made/dataset.toml"}


def test_another_teacher_is_not_mixed_into_what_was_begun(place, capfd):
    assert label(FROM_FOLDER + RED) == 0
    assert label(FROM_FOLDER + RED.replace("red", "green")) == 2
    assert "begun with other teachers and sha256" in capfd.readouterr().err
    write_channel(place / "red", 1)  # under the same name
    assert label(FROM_FOLDER + RED) == 2
    assert "begun with other sha256" in capfd.readouterr().err


def test_a_picture_that_cannot_be_read_is_named_and_tried_again(place, capfd):
    whole = Path("balls/images/001.png").read_bytes()
    Path("balls/images/001.png").write_bytes(b"nothing")
    assert label(FROM_FOLDER + RED) == 1
    assert "not labelled: balls/images/001.png" in capfd.readouterr().err
    assert [row["kept"] for row in rows()] == [True, False, True, True]
    Path("balls/images/001.png").write_bytes(whole)
    assert label(FROM_FOLDER + RED) == 0
    assert all(row["kept"] for row in rows())


def test_teachers_who_agree_about_nothing_leave_an_empty_folder_that_can_be_gone_on_with(place):
    second = '[[agreement]]\nmodel = "green.onnx"\nmetric = "mad"\nlimit = 0.0\n'
    for _ in range(2):
        assert label(FROM_FOLDER + RED + second) == 0
        assert [row["kept"] for row in rows()] == [False] * PICTURES


# Poses


def test_openposes_people_become_cocos_keypoints(place):
    names = [
        "nose", "neck", "rsho", "relb", "rwri", "lsho", "lelb", "lwri", "midhip", "rhip", "rkne", "rank",
        "lhip", "lkne", "lank", "reye", "leye", "rear", "lear",
    ]  # fmt: skip
    numbers = {name: (10 + i, 20 + i / 2, 0.1 if name == "lank" else 0.9) for i, name in enumerate(names)}
    body = [value for name in names for value in numbers[name]] + [0.0] * 18  # feet
    Path("poses").mkdir()
    for stem in ("000", "001", "002", "003"):
        people = [{"pose_keypoints_2d": body}] if stem != "001" else []
        Path(f"poses/{stem}_keypoints.json").write_text(json.dumps({"people": people}))
    assert label(FROM_FOLDER + '[[teacher]]\nposes = "poses"\n') == 0
    people = open_dataset("folder", "keypoints", root="made")
    assert [Path(person.image).stem for person in people.records] == ["000", "002", "003"]
    found = np.asarray(people.records[0].keypoints).reshape(17, 3)
    order = [
        "nose", "leye", "reye", "lear", "rear", "lsho", "rsho", "lelb", "relb", "lwri", "rwri", "lhip",
        "rhip", "lkne", "rkne", "lank", "rank",
    ]  # fmt: skip
    assert found[:, 2].tolist() == [0 if name == "lank" else 2 for name in order]
    for name, (x, y, seen) in zip(order, found):
        assert (x, y) == (numbers[name][:2] if seen else (0, 0))
    box = people.records[0].box
    assert box[0] < 10
    assert box[0] + box[2] > 10 + names.index("lear")


def test_a_coco_file_is_shared_out_among_its_pictures(place, capfd):
    keypoints = [1.0, 2.0, 2, 5.0, 6.0, 1]
    table = {
        "images": [{"id": 7, "file_name": "a/000.png"}, {"id": 9, "file_name": "002.png"}],
        "annotations": [
            {"id": 1, "image_id": 9, "bbox": [0, 0, 20, 20], "keypoints": keypoints, "category_id": 1},
            {"id": 2, "image_id": 9, "bbox": [1, 1, 9, 9], "keypoints": keypoints, "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye"]}],
    }
    Path("coco.json").write_text(json.dumps(table))
    assert label(FROM_FOLDER + '[[teacher]]\nposes = "coco.json"\n') == 1
    assert "balls/images/001.png: coco.json says nothing of it" in capfd.readouterr().err
    people = open_dataset("folder", "keypoints", root="made")
    assert [person.image for person in people.records] == ["images/002.png"] * 2
    assert list(people.records[0].keypoints) == keypoints


# Prompts and pictures


@pytest.fixture
def words(tmp_path) -> Path:
    """A tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {
        word: i
        for i, word in enumerate(["<s>", "</s>", "<unk>", "a", "red", "ball", "bed", "in", "the", "sun", "room", "1"])
    }
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "words.json"))
    return tmp_path / "words.json"


def write_language_model(folder: Path, words: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_file=str(words), **tokens).save_pretrained(folder)


def write_painter(folder: Path, words: Path) -> None:
    """Stable Diffusion, as small as it gets, in diffusers layout."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    torch.manual_seed(1)
    network = tiny.unet(4)
    width = network.config.cross_attention_dim
    config = CLIPTextConfig(
        vocab_size=12, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(words), model_max_length=77, **tokens)
    StableDiffusionPipeline(
        vae=tiny.vae(), text_encoder=CLIPTextModel(config), tokenizer=tokenizer, unet=network,
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


PAINTED = '[pictures]\nmodel = "sd"\nwidth = 32\nheight = 32\nsteps = 2\nseed = 5\n'


def test_prompts_become_pictures_that_their_seeds_give_again(place, words):
    from diffusers import DiffusionPipeline

    write_painter(place / "sd", words)
    Path("prompts.txt").write_text("a red ball\n\na bed in the sun\na red  ball\n")
    assert label('[prompts]\nfile = "prompts.txt"\n' + PAINTED + "per_prompt = 2\n" + RED) == 0
    told = [(row["prompt"], row["seed"]) for row in rows()]
    assert told == [("a red ball", 5), ("a red ball", 6), ("a bed in the sun", 7), ("a bed in the sun", 8)]
    pipe = DiffusionPipeline.from_pretrained("sd")
    made = pipe(
        "a bed in the sun", width=32, height=32, num_inference_steps=2, generator=torch.Generator().manual_seed(7)
    )
    assert np.array_equal(np.asarray(Image.open("made/images/000002.png")), np.asarray(made.images[0]))
    # a kill between the stages: one picture and its label are made again, alike, and no other
    before = everything("made")
    lines = Path("made/label/pictures.jsonl").read_text().splitlines(keepends=True)
    Path("made/label/pictures.jsonl").write_text("".join(lines[:3]))
    for file in ("label/pictures/000003.png", "images/000003.png", "matte/000003.png"):
        Path("made", file).unlink()
    assert label('[prompts]\nfile = "prompts.txt"\n' + PAINTED + "per_prompt = 2\n" + RED) == 0
    after = everything("made")
    assert {name: content for name, (_, content) in after.items()} == {n: c for n, (_, c) in before.items()}
    pictures = [name for name in before if "/pictures/" in name]
    assert {n for n in pictures if before[n][0] != after[n][0]} == {"made/label/pictures/000003.png"}


def test_a_language_model_is_asked_about_every_subject_and_not_again(place, words):
    write_language_model(place / "lm", words)
    write_painter(place / "sd", words)
    asked = '[prompts]\nmodel = "lm"\nsubjects = ["bed", "room"]\ncount = 5\nat_once = 3\nleast = 3\nmost = 6\n'
    assert label(asked + PAINTED + RED) == 0
    batches = [json.loads(line) for line in Path("made/label/prompts.jsonl").read_text().splitlines()]
    assert [(row["subject"], row["seed"], len(row["prompts"])) for row in batches] == [
        *[("bed", 0, 3), ("bed", 1, 2), ("room", 2, 3), ("room", 3, 2)]
    ]
    prompts = dict.fromkeys(prompt for row in batches for prompt in row["prompts"] if prompt)
    assert [row["prompt"] for row in rows()] == [*prompts]
    assert not any(character.isdigit() for prompt in prompts for character in prompt)
    # cut off in the middle of a batch: those before it stay, the rest is asked for again with the same seeds
    whole = Path("made/label/prompts.jsonl").read_bytes()
    first, second, *_ = whole.splitlines(keepends=True)
    Path("made/label/prompts.jsonl").write_bytes(first + second[:20])
    assert label(asked + PAINTED + RED) == 0
    again = [json.loads(x) for x in Path("made/label/prompts.jsonl").read_bytes().splitlines() if x.endswith(b"}")]
    assert again == batches


# What is asked wrongly

WRONG = [
    (RED, "a folder of pictures, or a model that paints them"),
    (FROM_FOLDER, "names no [[teacher]]"),
    (FROM_FOLDER + '[[teacher]]\nmodell = "red.onnx"\n', "did you mean 'model'?"),
    (FROM_FOLDER + '[[teacher]]\nmodel = "red.onnx"\nposes = "p"\n', "say one of them"),
    (FROM_FOLDER + RED + RED, "Two teachers say matte"),
    (FROM_FOLDER + '[[teacher]]\nmodel = "mine.safetensors"\n', "predicts normal, depth: say which"),
    (FROM_FOLDER + RED + '[[agreement]]\nmodel = "green.onnx"\n', 'metric = "..." and limit'),
    (FROM_FOLDER + RED + '[[agreement]]\nmodel = "green.onnx"\nmetric = "mat"\n', "no metric 'mat'"),
    (
        FROM_FOLDER + RED + '[[agreement]]\nmodel = "mine.safetensors"\ntask = "depth"\nmetric = "abs-rel"\n',
        "of which there is no teacher",
    ),
    ('[pictures]\nmodel = "sd"\n' + RED, "a file of prompts, or a model that writes them"),
    ('[pictures]\nfolder = "made/images"\n' + RED, "the pictures lie inside made"),
    ('[pictures]\nfolder = "nowhere"\n' + RED, "nowhere has no pictures"),
    (FROM_FOLDER + '[[teacher]]\nposes = "nowhere"\n', "no file and no folder of poses nowhere"),
    ('[prompts]\nfile = "nowhere"\n' + PAINTED + RED, "no file of prompts nowhere"),
    ('[prompts]\nfile = "label.toml"\n' + PAINTED + RED, "diffusers cannot open sd"),
    ('[prompts]\nmodel = "lm"\nsubjects = ["x"]\n' + PAINTED + RED, "lm is no language model"),
    ("[pictures]\nfolder = 3\n" + RED, "pictures.folder is 3: expected str"),
    ("pictures = 3\n" + RED, "expected a table [pictures]"),
    ("teacher = 3\n" + FROM_FOLDER, "expected tables [[teacher]]"),
    ("= 3\n", "is not TOML"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_what_is_asked_wrongly_is_said_in_one_line(place, capfd, text, sentence):
    assert label(text) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("diffusion-perception: ")
    assert sentence in said


def test_the_configs_of_the_documentation_are_plans(tmp_path):
    found = guides.configs("label")
    assert {*found} == {"cutouts.toml", "bedrooms.toml"}
    for name, text in found.items():
        (tmp_path / name).write_text(text)
        assert read_plan(tmp_path / name, None).out == Path(name).with_suffix("")


def test_normals_without_axes_and_light_without_a_curve_are_refused(place, capfd):
    for task, sentence in (("normal", "does not say where its normals point"), ("albedo", "srgb or linear")):
        tiny.write_own(place / f"{task}.safetensors", [Recipe(task, base="custom", resolution=48)])
        assert label(FROM_FOLDER + f'[[teacher]]\nmodel = "{task}.safetensors"\n') == 2
        assert sentence in capfd.readouterr().err
    said = '[[teacher]]\nmodel = "albedo.safetensors"\nset = ["encoding=srgb"]\n'
    assert label(FROM_FOLDER + said) == 0
    assert 'colour = "srgb"' in Path("made/dataset.toml").read_text()
