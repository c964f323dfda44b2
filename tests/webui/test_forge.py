"""Tests of webui/forge.py on a stand-in: models that cannot perceive are told, what is switched is switched back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from tiny_adapters import kinds_of_adapters
from torch import nn

from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.recipe import Recipe


class FluxEngine(SimpleNamespace):
    """A model of another kind."""


def nothing():
    return SimpleNamespace()


def holding(network):
    """What the host keeps of a model."""
    return SimpleNamespace(unet=SimpleNamespace(model=SimpleNamespace(diffusion_model=network)))


def flux():
    return FluxEngine(forge_objects=holding(nn.Linear(1, 1)))


def packed():
    """Its Linear are of a class that is told no sizes."""
    from backend.nn.unet import IntegratedUNet2DConditionModel

    network = type("UNet", (IntegratedUNet2DConditionModel, nn.Sequential), {})(type("Linear", (nn.Module,), {})())
    return SimpleNamespace(forge_objects=holding(network))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "The WebUI has loaded no model for the adapter to run on: choose an SD 1.x or 2.x checkpoint"),
        (flux, "The loaded model is FluxEngine, not a Stable Diffusion UNet: load an SD 1.x or 2.x checkpoint."),
        (
            packed,
            "The loaded model's weights are packed (GGUF, NF4 or FP4), and no adapter can run beside them: choose",
        ),
    ],
)
def test_a_model_that_cannot_perceive_is_told_in_a_sentence(forge, monkeypatch, make, said):
    from modules import shared

    monkeypatch.setattr(shared, "sd_model", make())
    with pytest.raises(CheckpointError) as told:
        forge.resident()
    assert said in str(told.value)


def test_adapters_are_preprocessors_here(forge, tmp_path):
    from dataclasses import replace

    from modules_forge.shared import supported_preprocessors

    from diffusion_perception.webui.preprocessors import offer

    adapter = replace(kinds_of_adapters(tiny.unet())["every Linear"], recipes=(Recipe("depth", base="custom"),))
    write_adapter(tmp_path / "perception" / "adapter.safetensors", adapter)
    offer()
    assert "depth_perception adapter" in supported_preprocessors


@pytest.mark.parametrize("fails", [False, True])
def test_layers_cast_while_the_vae_works_and_no_longer(forge, fails):
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    network[0].parameters_manual_cast, network[1].parameters_manual_cast = False, True
    raised = False
    try:
        with forge.casting(network):
            assert [getattr(layer, forge.CASTS, None) for layer in network] == [True, True, None]
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        raised = True
    assert raised == fails
    assert [getattr(layer, forge.CASTS, None) for layer in network] == [False, True, None]


@pytest.mark.parametrize("kept", ["patcher", "loader"])
def test_a_weight_is_told_as_it_was_before_the_users_loras(forge, kept):
    """Neo keeps it at the patcher, the older ones where they merge."""
    network, conv_in = nn.Module(), nn.Conv2d(4, 8, 3)
    network.input_blocks = nn.ModuleList([nn.ModuleList([conv_in])])
    before, key = torch.ones(8, 4, 3, 3), "diffusion_model.input_blocks.0.0.weight"
    if kept == "patcher":
        patcher = SimpleNamespace(backup={key: SimpleNamespace(weight=before)})
    else:
        patcher = SimpleNamespace(lora_loader=SimpleNamespace(backup={key: before}))
    network.config = {"in_channels": 4}
    backbone = forge.ResidentBackbone(patcher, network, torch.float32)
    assert torch.equal(backbone.weight("conv_in.weight"), before)
    assert torch.equal(backbone.weight("conv_in.bias"), conv_in.bias)
    with pytest.raises(KeyError):
        backbone.weight("nowhere.weight")


def test_a_prompt_is_read_from_the_last_layer_whichever_is_chosen(forge):
    engine = SimpleNamespace(clip_skip=2)
    asked = []

    def answer(texts):
        asked.append((texts, engine.clip_skip))
        if texts == ["fails"]:
            raise ZeroDivisionError
        return torch.zeros(1, 77, 768).half()

    model = SimpleNamespace(
        text_processing_engine=engine,
        set_clip_skip=lambda layer: setattr(engine, "clip_skip", layer),
        get_learned_conditioning=answer,
    )
    assert forge.encode(model, "a room").dtype == torch.float32
    with pytest.raises(ZeroDivisionError):
        forge.encode(model, "fails")
    assert asked == [(["a room"], 1), (["fails"], 1)]
    assert engine.clip_skip == 2
