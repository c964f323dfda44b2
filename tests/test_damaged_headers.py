"""A header that is damaged, or says what cannot be, is told in a sentence with the file's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion_perception.core.checkpoints.adapter_file import describe_adapter, is_adapter, read_adapter
from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.describe import describe
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.recipe import KEY, Recipe

DAMAGED = ["null", "5", '"x"', "{}", "[1]", "{bad", "", "[null]", "[" * 100_000, "1" * 5000, '{"a": NaN}']
FIELDS = [KEY, *(KEY.replace(".recipe", f".{name}") for name in ("unet", "vae", "adapter"))]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[dict, dict]:
    """Tensors and header of a checkpoint."""
    path = tiny.write_own(tmp_path_factory.mktemp("own") / "x.safetensors", [Recipe("depth", base="custom")])
    with safe_open(path, "pt") as held:
        return load_file(path), held.metadata()


def calm(path: Path, *calls: Any) -> None:
    """Each gives something, or one sentence that names the file."""
    for call in calls:
        told = path.name
        try:
            call(path)
        except UserError as refusal:
            told = str(refusal)
        assert path.name in told
        assert "\n" not in told


@pytest.mark.parametrize("content", DAMAGED, ids=lambda text: text[:12])
@pytest.mark.parametrize("field", FIELDS)
def test_a_checkpoint_says_what_is_wrong_with_its_header(tmp_path, own, field, content):
    tensors, header = own
    save_file(tensors, tmp_path / "bad.safetensors", {**header, field: content})
    calm(tmp_path / "bad.safetensors", open_checkpoint, describe, is_adapter)


ODD = [None, 5, "x", [], {}, [1, 2], True, -1, 0, float("inf"), {"conv_in.weight": "x"}, {"conv_in.weight": [None]}]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_head_counts_that_cannot_be_are_refused(tmp_path, own, value):
    tensors, header = own
    field = KEY.replace(".recipe", ".unet")
    config = {**json.loads(header[field]), "attention_head_dim": value}
    save_file(tensors, tmp_path / "bad.safetensors", {**header, field: json.dumps(config)})
    calm(tmp_path / "bad.safetensors", open_checkpoint)


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("name", ["base", "fingerprint", "licence", "data"])
def test_a_manifest_that_cannot_be_is_refused(tmp_path, own, name, value):
    tensors = {f"adapter.{LAYER}.down": torch.ones(2, 64), f"adapter.{LAYER}.up": torch.ones(64, 2)}
    header = {KEY: own[1][KEY], KEY.replace(".recipe", ".adapter"): json.dumps({name: value})}
    save_file(tensors, tmp_path / "bad.safetensors", header)

    def noted(path: Path) -> None:
        read_adapter(path).notes({"conv_in.weight": [0.0] * 40})

    calm(tmp_path / "bad.safetensors", noted, describe_adapter)


@pytest.mark.parametrize("name", ["lora_alpha", "alpha_pattern", "use_rslora", "r"])
@pytest.mark.parametrize("value", [*ODD, {"[": 1}, {"x": True}], ids=str)
def test_a_config_of_peft_that_cannot_be_is_refused(tmp_path, name, value):
    tensors = {f"unet.{LAYER}.lora_A.weight": torch.ones(2, 64), f"unet.{LAYER}.lora_B.weight": torch.ones(64, 2)}
    config = {"unet.lora_alpha": 4, f"unet.{name}": value}
    save_file(tensors, tmp_path / "bad.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    calm(tmp_path / "bad.safetensors", describe_adapter)
