"""Whatever a file holds, it is read or refused in a sentence: never a traceback, a hang, or numbers that are none.

FUZZ_EXAMPLES says how many inputs of each kind are tried; `make test-slow` tries 2,000.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from datetime import timedelta

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from diffusion_perception.core.checkpoints.adapter_file import describe_adapter, is_adapter, read_adapter
from diffusion_perception.core.checkpoints.checkpoint import open_all
from diffusion_perception.core.checkpoints.describe import describe
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.config import Config, build, parse_toml
from diffusion_perception.trainer.data.published import coco_keypoints
from diffusion_perception.trainer.data.records import read_image as seen_in_training
from diffusion_perception.trainer.data.tasks import truths
from diffusion_perception.trainer.data.truth import read_description
from diffusion_perception.trainer.perceiver import read_upright

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES") or 100),
    deadline=timedelta(seconds=10),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
WORDS = st.text(max_size=12) | st.sampled_from(["depth", "normal", "sd21", "auto", "nan", "-1", "é", "\0"])
NUMBERS = st.integers(-(10**30), 10**30) | st.floats() | st.booleans() | st.none()
JSON = st.recursive(
    NUMBERS | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8
)


def sentence(call, *given, also: tuple[type[Exception], ...] = ()):
    """What a call gives; None where it refuses in one sentence. Anything else that it raises is a fault."""
    with suppress(UserError, *also):
        return call(*given)
    return None


# Headers of the project's own files

FIELDS = list(Recipe.__dataclass_fields__)
HEADER = "diffusion_perception."


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("fuzz") / "whole.safetensors"
    tiny.write_own(file, [Recipe("depth", tokens=2, base="custom")])
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        return {name: held.get_tensor(name) for name in held.keys()}, held.metadata()  # noqa: SIM118


@FUZZ
@given(
    changed=st.dictionaries(st.sampled_from(FIELDS) | WORDS, JSON, max_size=4),
    unet=st.dictionaries(
        st.sampled_from(["attention_head_dim", "in_channels", "block_out_channels"]), JSON, max_size=2
    ),
    vae=st.dictionaries(st.sampled_from(["scaling_factor", "latent_channels"]), JSON, max_size=2),
    whole=st.booleans(),
)
def test_headers_of_any_content(tmp_path, weights, changed, unet, vae, whole):
    tensors, header = weights
    row = {"task": "depth", "tokens": 2, **changed} if whole else changed
    header = {
        **header,
        f"{HEADER}recipe": json.dumps([row]),
        f"{HEADER}unet": json.dumps({**json.loads(header[f"{HEADER}unet"]), **unet}),
        f"{HEADER}vae": json.dumps({**json.loads(header[f"{HEADER}vae"]), **vae}),
    }
    file = tmp_path / "file.safetensors"
    save_file(tensors, file, metadata=header)
    for checkpoint in sentence(open_all, file) or ():
        assert checkpoint.recipe.task
        assert all(count > 0 for count in checkpoint.architecture.heads)
    sentence(describe, file)


# Names of adapters' tensors

BEFORE = [
    "",
    "unet.",
    "base_model.model.",
    "base_model.model.unet.",
    "lora_unet_",
    "diffusion_model.",
    "module.",
    "te_",
]
LAYERS = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "mid_block.attentions.0.proj_in", "input_blocks.1.1.transformer_blocks.0.attn1.to_k",
    "conv_in", "conv_out", "nowhere",
]  # fmt: skip
AFTER = [
    ".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha", "_lora.down.weight", "_lora.up.weight",
    ".lora.down.weight", ".lora_layer.up.weight", ".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight", ".diff",
    ".diff_b", ".weight", ".bias", ".base_layer.weight", ".dora_scale", ".hada_w1_a", ".lokr_w1", "",
]  # fmt: skip
NAMES = st.builds(lambda a, b, c: a + b + c, st.sampled_from(BEFORE), st.sampled_from(LAYERS), st.sampled_from(AFTER))
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]
TENSORS = st.tuples(SHAPES, st.sampled_from(TYPES))


@FUZZ
@given(
    tensors=st.dictionaries(NAMES | WORDS.filter(bool), TENSORS, min_size=1, max_size=6),
    metadata=st.dictionaries(st.sampled_from(["lora_adapter_metadata", "ss_network_args", f"{HEADER}adapter"]), WORDS),
)
def test_adapters_of_any_names_and_shapes(tmp_path, tensors, metadata):
    file = tmp_path / "adapter.safetensors"
    made = {name: torch.ones(shape).to(kind) for name, (shape, kind) in tensors.items()}
    save_file({name.replace("\0", "") or "x": tensor for name, tensor in made.items()}, file, metadata=metadata)
    adapter = sentence(read_adapter, file)
    assert adapter is None or adapter.parts
    if sentence(is_adapter, file):
        sentence(describe_adapter, file)


# Pictures

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "La", "RGBa", "RGBX"]
KINDS = ["PNG", "TIFF", "JPEG", "WEBP", "BMP", "PPM", "GIF", "TGA", "ICO"]


@FUZZ
@given(
    mode=st.sampled_from(MODES),
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    turned=st.none() | st.integers(0, 300),
    ending=st.sampled_from([".png", ".tif", ".jpg", ".webp", ".bmp", ".pgm", ".gif", ".xyz", ""]),
    cut=st.none() | st.integers(0, 400),
    seed=st.integers(0, 2**16),
)
def test_pictures_of_any_mode(tmp_path, mode, kind, size, turned, ending, cut, seed):
    picture = Image.frombytes(mode, size, np.random.default_rng(seed).bytes(len(Image.new(mode, size).tobytes())))
    exif = Image.Exif()
    if turned is not None:
        exif[0x0112] = turned
    held = io.BytesIO()
    try:
        picture.save(held, kind, exif=exif.tobytes())
    except (OSError, ValueError, KeyError, TypeError, SystemError):  # Pillow writes not every mode into every kind
        return
    file = tmp_path / f"picture{ending}"
    file.write_bytes(held.getvalue()[:cut])
    seen = sentence(read_upright, file, also=(OSError,))
    if seen is not None:
        assert seen.shape[:2] == (1, 3)
        assert torch.isfinite(seen).all()
        assert seen.min() >= 0
        assert seen.max() <= 1
        learnt = sentence(seen_in_training, file, also=(OSError,))
        assert learnt is None or torch.equal(learnt[0], seen[0])


# COCO's records

PERSON = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "iscrowd": 0,
    "bbox": [5, 5, 20, 20],
    "area": 400,
    "num_keypoints": 17,
    "keypoints": [10, 10, 2] * 17,
}
IMAGE = {"id": 1, "file_name": "1.png", "width": 64, "height": 48}
CATEGORY = {"id": 1, "name": "person", "keypoints": [f"k{i}" for i in range(17)], "skeleton": [[1, 2]]}
CHANGES = {
    kind: st.dictionaries(st.sampled_from(list(row)), JSON, max_size=3)
    for kind, row in (("annotations", PERSON), ("images", IMAGE), ("categories", CATEGORY))
}


@FUZZ
@given(changes=st.fixed_dictionaries(CHANGES), gone=st.lists(st.sampled_from(list(PERSON)), max_size=2))
def test_coco_records_of_any_content(tmp_path, changes, gone):
    (tmp_path / "train2017").mkdir(exist_ok=True)
    tiny.save_picture(tmp_path / "train2017" / "1.png", 48, 64)
    rows = {"annotations": PERSON, "images": IMAGE, "categories": CATEGORY}
    odd = {kind: {**row, **changes[kind]} for kind, row in rows.items()}
    odd["annotations"] = {key: value for key, value in odd["annotations"].items() if key not in gone} | {"id": 2}
    table = {kind: [row, odd[kind]] if kind == "annotations" else [odd[kind]] for kind, row in rows.items()}
    (tmp_path / "people.json").write_text(json.dumps(table), "utf-8")
    dataset = sentence(coco_keypoints, str(tmp_path), "keypoints", "people.json", "train2017", also=(OSError,))
    if dataset is None:
        return
    for index in range(len(dataset)):
        sample = sentence(dataset.__getitem__, index, also=(OSError,))
        if sample is not None:
            assert torch.isfinite(sample.target).all()
            assert torch.isfinite(sample.image).all()


# TOML

KEYS = (
    st.sampled_from(
        [
            "tasks",
            "size",
            "steps",
            "data",
            "validation",
            "augment",
            "objective",
            "optimiser",
            "network",
            "recipe",
            "target",
            "seed",
        ]
    )
    | WORDS
)
VALUES = {
    "depth": ["unit", "kind", "invalid", "near", "far", "rotated"],
    "disparity": ["unit", "offset"],
    "images": ["colour"],
    "camera": ["fov_deg"],
}


def toml(table: dict) -> str:
    """Python's own values as TOML; whatever has no such form is left for the reader to stumble over."""
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    inner = [f"[{json.dumps(key)}]\n{toml(value)}" for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([*lines, *inner])


@FUZZ
@given(table=st.dictionaries(KEYS, JSON, max_size=4), noise=st.none() | st.text(max_size=20))
def test_configs_of_any_content(tmp_path, table, noise):
    file = tmp_path / "config.toml"
    file.write_text(toml(table) + ("" if noise is None else f"\n{noise}"), "utf-8", errors="replace")
    read = sentence(parse_toml, file)
    if read is not None:
        sentence(build, Config, read, "")


@FUZZ
@given(
    st.sampled_from([(section, key) for section, keys in VALUES.items() for key in keys]).flatmap(
        lambda place: st.tuples(st.just(place), JSON)
    )
)
def test_descriptions_of_any_content(tmp_path, chosen):
    (section, key), value = chosen
    (tmp_path / "dataset.toml").write_text(toml({section: {key: value}}), "utf-8", errors="replace")
    sentence(read_description, tmp_path, truths())
