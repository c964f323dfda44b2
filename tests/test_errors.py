"""What a person can mend is one line with exit code 2 at every door; a fault of the program shows its traceback."""

from __future__ import annotations

import json
import struct
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import runs
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion_perception.core import pipeline
from diffusion_perception.core.checkpoints.context import read_context
from diffusion_perception.core.checkpoints.describe import describe
from diffusion_perception.core.checkpoints.tensors import read_object, read_shapes
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.recipe import KEY, Recipe, from_header
from diffusion_perception.core.skeletons import Skeleton
from diffusion_perception.trainer import config, predict, state
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.data import batches
from diffusion_perception.trainer.data.arrays import BrokenRecord
from diffusion_perception.trainer.data.hypersim import read_splits
from diffusion_perception.trainer.data.people import people_of, read_annotations
from diffusion_perception.trainer.data.published import read_pairs
from diffusion_perception.trainer.data.records import read_intrinsics, read_names
from diffusion_perception.trainer.data.tasks import truths
from diffusion_perception.trainer.data.truth import read_description

PROPERTY = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, a photograph, and balls to learn from."""
    folder = tmp_path_factory.mktemp("errors")
    tiny.write_own(folder / "model.safetensors", [Recipe("depth", base="custom", resolution=32)])
    tiny.save_picture(folder / "photo.png", 32, 32)
    return runs.write_root(folder)


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused; gives its one line."""

    def refused(*words: str | Path) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(said) == 1, said
        assert said[0].startswith("diffusion-perception: ")
        return said[0]

    return refused


def predicting(place: Path, *more: str | Path, model: str | Path = "model.safetensors") -> tuple[str | Path, ...]:
    return "predict", place / "photo.png", "--model", place / model, "--out", place / "out", "--device=cpu", *more


def training(place: Path, *more: str | Path) -> tuple[str | Path, ...]:
    flags = ("--tasks=depth", "--size=32,32", "--steps=1", "--workers=0", "--device=cpu", "--estimate=false")
    base = ("--base.architecture=tiny", f"--base.vae={place / 'vae'}", f"--out={place / 'run'}")
    return "train", *flags, *base, *more


# Bytes of any kind

TROUBLE = {
    "nothing": b"",
    "another encoding": b"\xff\xfe",
    "brackets too deep": b"[" * 200_000,
    "a number too long": b"1" * 5000,
    "half an object": b'{"a": ',
    "a zero byte": b"\0",
}
"""What Python's own readers answer with errors of many kinds."""


def npy(content: bytes) -> bytes:
    """An array's file with a header of these bytes."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(content), 65535)) + content


def safetensors(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


READ: dict[str, tuple[str, Callable[[bytes], bytes], Callable[[Path], object]]] = {
    "boxes": ("boxes.json", bytes, lambda file: predict.boxes_named(file, Path("photo.png"))),
    "config": ("any.toml", bytes, config.parse_toml),
    "description": ("dataset.toml", bytes, lambda file: read_description(file.parent, truths())),
    "names": ("names.txt", bytes, read_names),
    "camera": ("camera.json", bytes, read_intrinsics),
    "annotations": ("people.json", bytes, read_annotations),
    "list": ("list.jsonl", bytes, lambda file: read_pairs([file], "depth")),
    "splits": ("splits.csv", bytes, read_splits),
    "embedding": ("any.npy", bytes, read_context),
    "embedding's header": ("any.npy", npy, read_context),
    "image": ("any.png", bytes, predict.read_upright),
    "png": ("any.png", lambda content: b"\x89PNG\r\n\x1a\n" + content, predict.read_upright),
    "tiff": ("any.tif", lambda content: b"II*\0" + content, predict.read_upright),
    "array": ("any.npy", npy, predict.read_upright),
    "model": ("any.safetensors", safetensors, lambda file: describe(file)),
    "pickle": ("any.bin", bytes, read_shapes),
    "state": ("state.pt", bytes, state.read_state),
    "config of a network": ("config.json", bytes, read_object),
}
"""{door: (file, what stands round the bytes, what reads it)}"""


@pytest.mark.parametrize("door", READ)
@PROPERTY
@given(content=st.binary(max_size=200) | st.sampled_from(list(TROUBLE.values())))
def test_bytes_of_any_kind_are_read_or_refused(tmp_path, door, content):
    name, around, read = READ[door]
    (tmp_path / name).write_bytes(around(content))
    with suppress(UserError, OSError):
        read(tmp_path / name)


COMMANDS: dict[str, tuple[str, Callable[[bytes], bytes], Callable[[Path, Path], tuple[str | Path, ...]]]] = {
    "boxes": ("boxes.json", bytes, lambda place, file: predicting(place, "--boxes", file)),
    "embedding": ("any.npy", bytes, lambda place, file: predicting(place, "--context", file)),
    "config": ("any.toml", lambda content: b"= " + content, lambda place, file: ("train", file, "--print-config")),
    "description": (
        "data/dataset.toml",
        lambda content: b"= " + content,
        lambda place, file: training(place, "--data", file.parent),
    ),
    "model": ("any.safetensors", safetensors, lambda place, file: predicting(place, model=file)),
    "image": ("any.png", bytes, lambda place, file: ("predict", file, *predicting(place)[2:])),
    "info": ("any.safetensors", safetensors, lambda place, file: ("info", file)),
}


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("door", COMMANDS)
def test_a_command_refuses_what_it_cannot_read_in_one_line(place, tmp_path, refused, door, trouble):
    name, around, words = COMMANDS[door]
    (tmp_path / "data" / "depth").mkdir(parents=True)
    (tmp_path / name).write_bytes(around(TROUBLE[trouble]))
    refused(*words(place, tmp_path / name))


def with_header(source: Path, target: Path, **fields: str) -> Path:
    """A copy of a model with other fields in its header."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(source), target, {**metadata, **fields})
    return target


@PROPERTY
@given(text=st.text(max_size=100) | st.sampled_from(["[" * 200_000, "1" * 5000, "{}", '["depth"]', "[{}]", "[0]"]))
def test_a_recipe_of_any_text_in_a_header_is_refused(text):
    with pytest.raises(UserError):
        from_header({KEY: text}, "a file")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@PROPERTY
@given(st.sampled_from(sorted(Recipe.__dataclass_fields__)), ANY)
def test_a_field_of_any_value_in_a_recipe_is_read_or_refused(field, value):
    row = json.dumps([{"task": "depth", "base": "custom", field: value}])
    with suppress(UserError):
        from_header({KEY: row}, "a file")


@PROPERTY
@given(ANY)
def test_boxes_of_any_value_are_read_or_refused(place, value):
    (place / "boxes.json").write_text(json.dumps({"photo.png": value}))
    with suppress(UserError):
        predict.boxes_named(place / "boxes.json", place / "photo.png")


@PROPERTY
@given(st.sampled_from(sorted(Recipe.__dataclass_fields__)), st.text(max_size=20))
def test_any_assignment_is_taken_or_refused(field, text):
    with suppress(UserError):
        Recipe("depth", base="custom").override([f"{field}={text}"])


@PROPERTY
@given(ANY)
def test_a_camera_of_any_value_is_a_camera_or_a_broken_record(place, value):
    for content in (value, {"K": value}):
        (place / "camera.json").write_text(json.dumps(content))
        with suppress(BrokenRecord):
            assert read_intrinsics(place / "camera.json").shape == (3, 3)


@PROPERTY
@given(ANY, st.sampled_from(["keypoints", "bbox", "area", "image_id", "num_keypoints", "iscrowd", "id"]))
def test_an_annotation_of_any_value_is_a_person_or_a_fault(place, value, field):
    row = {"id": 1, "image_id": 0, "keypoints": [1, 1, 2], "bbox": [0, 0, 4, 4], field: value}
    for annotation in (row, value):
        people, faults = people_of({"annotations": [annotation]}, {0: "a.png"}, Skeleton(("nose",)), "file")
        assert len(people) + len(faults) <= 1


@pytest.mark.parametrize("part", ["camera/1_0.json", "dataset.toml"])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_rendered_folder_that_is_damaged_is_refused(tmp_path, refused, part, trouble):
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera" / "1_0.json").write_text("{}")
    (tmp_path / "dataset.toml").write_text("")
    (tmp_path / part).write_bytes(b"= " + TROUBLE[trouble])
    assert "render again" in refused("scenes", "--verify", "--out", tmp_path)


@pytest.mark.parametrize("betas", ["5,5", "-1,-1", "1,1", "nan,0.9"])
def test_decays_of_moments_outside_their_range_are_refused(place, refused, betas):
    assert "betas" in refused(*training(place, "--data", place / "train", f"--optimiser.betas={betas}"))


SETTINGS = [
    '[objective]\nloss = "pixel"\npixel_losses.depth = 5',
    '[[data]]\nroot = "ROOT"\nsettings.names = 5',
    '[[data]]\nroot = "ROOT"\nreader = "hypersim"\nsettings.table = ["a"]',
    '[[data]]\nroot = "ROOT"\nreader = "genpercept-list"\nsettings.list = {}',
]


@pytest.mark.parametrize("text", SETTINGS)
def test_free_tables_of_a_config_with_values_of_other_types_are_refused(place, tmp_path, refused, text):
    pytest.importorskip("h5py")
    (tmp_path / "c.toml").write_text(text.replace("ROOT", str(place / "train")))
    more = () if "[[data]]" in text else ("--data", place / "train")
    command, *flags = training(place, *more)
    refused(command, tmp_path / "c.toml", *flags)


@pytest.mark.parametrize("field", ["base", "fingerprint", "licence", "data"])
@pytest.mark.parametrize("value", [5, [1], {"a": 1}, {"a": ["x"]}, None])
def test_an_adapter_with_a_manifest_of_other_types_is_refused(place, refused, field, value):
    if value is None:
        pytest.skip("nothing is said")
    header = {KEY: json.dumps([{"task": "depth", "base": "custom"}])}
    header["diffusion_perception.adapter"] = json.dumps({field: value})
    save_file({"adapter.conv_in.weight": torch.zeros(32, 4, 3, 3)}, place / "adapter.safetensors", header)
    assert "damaged header" in refused("info", place / "adapter.safetensors")


UNET_CONFIGS = [{"attention_head_dim": "8"}, {"attention_head_dim": [0, 1, 1, 1]}, {"attention_head_dim": {"a": 1}}]


@pytest.mark.parametrize("said", UNET_CONFIGS, ids=str)
def test_head_counts_that_are_none_are_refused(place, refused, said):
    header = {"diffusion_perception.unet": json.dumps(said)}
    refused(*predicting(place, model=with_header(place / "model.safetensors", place / "heads.safetensors", **header)))


@pytest.mark.parametrize("factor", ["0.18", [1], -1], ids=str)
def test_a_scaling_factor_that_is_none_is_refused(place, refused, factor):
    header = {"diffusion_perception.vae": json.dumps({"scaling_factor": factor})}
    refused(*predicting(place, model=with_header(place / "model.safetensors", place / "scaled.safetensors", **header)))


# A run that goes on


def test_a_damaged_state_is_refused(place, tmp_path, refused):
    command = training(place, "--data", place / "train", f"--out={tmp_path / 'run'}")
    assert main([str(word) for word in command]) == 0
    file = tmp_path / "run" / "state.pt"
    whole = file.read_bytes()
    content = torch.load(file, weights_only=True)
    for damaged in (whole[: len(whole) // 2], b"", b"words", whole[:200] + b"\xff" * 50 + whole[250:]):
        file.write_bytes(damaged)
        assert "state.pt is damaged" in refused(*command)
    for other in ([1], {}, {**content, "weights": {}}, {**content, "optimiser": {}}, {**content, "random": {}}):
        torch.save(other, file)
        assert "state.pt is damaged" in refused(*command)


def test_a_name_with_a_zero_byte_is_refused(place, refused):
    (place / "zero.toml").write_text('out = "a\\u0000b"')
    assert "zero byte" in refused("train", place / "zero.toml", *training(place)[1:-1])


# Faults of the program

FAULTS = [ValueError("planted"), KeyError("planted"), TypeError("planted")]


def planted(fault: Exception):
    def planted_fault(*arguments: object, **more: object) -> None:
        raise fault

    return planted_fault


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_inside_predict_shows_its_traceback(place, monkeypatch, fault):
    monkeypatch.setattr(pipeline, "fit", planted(fault))
    with pytest.raises(type(fault)) as raised:
        main([str(word) for word in predicting(place)])
    assert "planted_fault" in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_in_a_data_worker_shows_its_traceback(place, tmp_path, monkeypatch, fault, workers):
    monkeypatch.setattr(batches, "finish_sample", planted(fault))
    with pytest.raises(type(fault)) as raised:
        main([str(word) for word in training(place, "--data", place / "train", f"--workers={workers}")])
    assert "planted_fault" in "".join(traceback.format_exception(raised.value))
