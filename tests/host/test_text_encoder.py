"""The text encoder beside a checkpoint, in the host's own network: as transformers runs it, or one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inside_host import FailedInside
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

TOKENS = [49406, 49407]
"""The host's network has CLIP's own vocabulary, whatever config.json says."""


@pytest.fixture
def folder(tmp_path) -> Path:
    """text_encoder/ as transformers saves it."""
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, bos_token_id=49406,
        eos_token_id=49407,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")
    return tmp_path / "text_encoder"


def encode(folder: str, tokens: list[int]) -> dict:
    from pathlib import Path

    from diffusion_perception.core.checkpoints.context import text_weights
    from diffusion_perception.core.checkpoints.tensors import read_object
    from diffusion_perception.nodes.host import encode_prompt

    path = Path(folder)
    return {"context": encode_prompt(text_weights(path), read_object(path / "config.json"), tokens)}


def rewrite(folder: Path, change) -> None:
    """Its weights, changed by change(tensors, the name of a weight)."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.fc1.weight"))
    save_file(change(tensors, name), file, {"format": "pt"})


def renamed(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """As releases of transformers before 5 save it."""
    old = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in tensors.items()}
    return {**old, "text_model.embeddings.position_ids": torch.arange(77)[None]}


@pytest.mark.parametrize("change", [lambda tensors, name: tensors, renamed], ids=["new", "old"])
def test_the_hosts_network_gives_what_transformers_gives(inside_host, folder, change):
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(folder)(torch.tensor([TOKENS]))[0].numpy()
    rewrite(folder, change)
    found = inside_host(encode, folder=str(folder), tokens=TOKENS)["context"]
    assert np.allclose(found, expected, atol=1e-5)


SPOILT = {
    "missing": lambda tensors, name: {key: tensor for key, tensor in tensors.items() if key != name},
    "misshapen": lambda tensors, name: {**tensors, name: tensors[name][:, :5].contiguous()},
    "unknown": lambda tensors, name: {**tensors, "logit_scale": torch.ones(1)},
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_one_that_is_not_whole_is_told_in_one_sentence_and_never_left_unfilled(inside_host, folder, change):
    rewrite(folder, change)
    with pytest.raises(FailedInside, match="model.safetensors is not whole: 1 of the weights") as told:
        inside_host(encode, folder=str(folder), tokens=TOKENS)
    assert told.value.exception_type == "CheckpointError"


def test_a_config_that_describes_none_is_told_in_one_sentence(inside_host, folder):
    (folder / "config.json").write_text("{}")
    with pytest.raises(FailedInside, match="config.json describes no text encoder"):
        inside_host(encode, folder=str(folder), tokens=TOKENS)


def test_a_host_without_its_embedder_says_once_that_workflows_are_left_out(inside_host):
    def save_twice() -> dict:
        import logging

        from comfy_api.latest import ui

        from diffusion_perception.nodes import save

        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger(save.__name__).addHandler(handler)
        delattr(ui.ImageSaveHelper, save.EMBEDDER)
        return {"chunks": [save.workflow(save.SaveMap), save.workflow(save.SaveMap)], "said": said}

    found = inside_host(save_twice)
    assert found["chunks"] == [[], []]
    assert len(found["said"]) == 1
    assert "without the workflow" in found["said"][0]
