"""Hosts since 0.12 make layers without weights until a file is loaded; what is loaded into them is the same network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inside_host import FailedInside
from networks import write_adapter_for, write_narrow_sd2, write_own_file
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def folder(inside_host):
    return inside_host.base / "models" / "perception"


def make_layers_on_loading() -> None:
    """Linear layers of the host as they are there: none of their weights exists until `load_state_dict` brings it,
    in the file's precision and of whatever shape."""
    import comfy.ops
    from torch import nn

    def made(self, in_features, out_features, bias=True, device=None, dtype=None):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.comfy_need_lazy_init_bias = in_features, out_features, bias
        self.weight = self.bias = None

    def filled(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        for name in ("weight", "bias"):
            if prefix + name in state_dict:
                tensor = state_dict[prefix + name]
                kept = tensor if local_metadata.get("assign_to_params_buffers", False) else tensor.clone()
                setattr(self, name, nn.Parameter(kept, requires_grad=False))
            elif name == "weight" or self.comfy_need_lazy_init_bias:
                missing_keys.append(prefix + name)

    for layers in (comfy.ops.disable_weight_init, comfy.ops.manual_cast):
        layers.Linear.__init__ = made
        layers.Linear._load_from_state_dict = filled


def perceive(model: str, lazy: bool) -> dict:
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    if lazy:
        make_layers_on_loading()
    image = torch.rand(1, 48, 80, 3, generator=torch.Generator().manual_seed(0))
    perception = LoadModel.execute(model, "auto", "as trained", "").result[0]
    unet = perception.backbone.network
    held = {str(tensor.dtype) for name, tensor in unet.state_dict().items() if "attn1" in name}
    return {"values": Perceive.execute(perception, image, -1, 1).result[0].values, "held": sorted(held)}


@pytest.mark.parametrize("precision", ["--fp32-unet", "--force-fp16"])
def test_layers_that_are_made_on_loading_hold_what_others_hold(inside_host, folder, precision):
    model = write_own_file(folder / "made on loading.safetensors", "depth").name
    asked = {"model": model, "host_arguments": ("--cpu", precision)}
    usual = inside_host(perceive, make_layers_on_loading, lazy=False, **asked)
    late = inside_host(perceive, make_layers_on_loading, lazy=True, **asked)
    assert usual["values"].std() > 0
    assert np.array_equal(usual["values"], late["values"])
    assert usual["held"] == late["held"]


LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize("torn", [{}, {LAYER: torch.zeros(3, 5)}], ids=["missing", "of another shape"])
def test_a_weight_that_is_missing_or_misshapen_is_told_before_anything_runs(inside_host, folder, torn):
    from safetensors import safe_open

    whole = write_own_file(folder / "whole.safetensors", "depth")
    with safe_open(whole, "pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in load_file(whole).items() if name != LAYER}
    save_file(tensors | torn, folder / "torn.safetensors", metadata)
    with pytest.raises(FailedInside, match=r"torn.safetensors is not whole: 1 of the weights that its UNetModel needs"):
        inside_host(perceive, make_layers_on_loading, model="torn.safetensors", lazy=True)


def count_loads(model: str) -> dict:
    """How often the host was asked to bring each network, while four steps were made of three images."""
    import comfy.model_management as management
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    perception, vae = LoadModel.execute(model, "auto", "as trained", "paradigm=deterministic steps=4").result
    load, brought = management.load_models_gpu, []

    def watched(models, *arguments, **named):
        brought.extend(models)
        return load(models, *arguments, **named)

    management.load_models_gpu = watched
    Perceive.execute(perception, torch.rand(3, 32, 32, 3), -1, 1)
    first = len([patcher for patcher in brought if patcher is perception.backbone.patcher])
    management.unload_all_models()
    Perceive.execute(perception, torch.rand(3, 32, 32, 3), -1, 1)
    return {
        "unet": first,
        "again": len([patcher for patcher in brought if patcher is perception.backbone.patcher]) - first,
        "vae": len([patcher for patcher in brought if patcher is vae.patcher]) // 2,
    }


def test_the_unet_is_brought_once_for_all_steps_of_an_image(inside_host, folder):
    model = write_own_file(folder / "steps.safetensors", "depth").name
    # the VAE decodes one image and encodes the next, and is brought once for both
    assert inside_host(count_loads, model=model) == {"unet": 3, "again": 3, "vae": 4}


def what_the_host_holds(unet: str, model: str) -> dict:
    """The kinds of patchers that our networks got, and what the host is told of them."""
    import comfy.model_patcher
    import comfy.sd

    from diffusion_perception.nodes.adapt import ApplyAdapter
    from diffusion_perception.nodes.load import LoadModel

    made = []
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", None)
    if kind is not None:

        class Watched(comfy.model_patcher.ModelPatcher):
            def __init__(self, *arguments, **named):
                made.append(type(arguments[0]).__name__)
                super().__init__(*arguments, **named)

        comfy.model_patcher.CoreModelPatcher = Watched
    perception, vae = LoadModel.execute(model, "auto", "as trained", "").result
    users = comfy.sd.load_diffusion_model(unet)
    adapted = ApplyAdapter.execute(users, vae, "held_adapter.safetensors", "as trained", "").result[0]
    held = {"loaded": (perception, perception.backbone.patcher), "adapted": (adapted, users)}
    told = {
        name: [patcher is mine for patcher, mine in zip(perceiver.get_models(), (unet, vae.patcher))]
        for name, (perceiver, unet) in held.items()
    }
    return {"own": "BaseModel" in made if kind is not None else True, **told}


def test_networks_get_the_hosts_own_kind_of_patcher_and_the_host_can_ask_for_them(inside_host, folder, tmp_path):
    unet = write_narrow_sd2(tmp_path / "narrow.safetensors")
    write_adapter_for(unet, folder / "held_adapter.safetensors")
    model = write_own_file(folder / "held.safetensors", "depth").name
    seen = inside_host(what_the_host_holds, unet=unet, model=model)
    assert seen == {"own": True, "loaded": [True, True], "adapted": [True, True]}


def perceive_beside_a_lora(unet: str, model: str) -> dict:
    """A LoRA that the host runs beside the weights, perceived with and without."""
    import comfy.sd
    import torch
    from comfy.patcher_extension import PatcherInjection

    from diffusion_perception.nodes.adapt import ApplyAdapter
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    vae = LoadModel.execute(model, "auto", "as trained", "").result[1]
    plain = comfy.sd.load_diffusion_model(unet)
    styled = plain.clone()
    layer = plain.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_out[0]
    kept = layer.forward

    def inject(patcher):
        layer.forward = lambda x: kept(x) + 0.5 * x

    def eject(patcher):
        layer.forward = kept

    styled.set_injections("bypass_lora", [PatcherInjection(inject=inject, eject=eject)])
    image = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0))

    def seen(patcher, weights):
        made = ApplyAdapter.execute(patcher, vae, "held_adapter.safetensors", "as trained", "", weights).result[0]
        return Perceive.execute(made, image, -1, 1).result[0].values

    return {
        "plain": seen(plain, "as loaded"), "styled": seen(styled, "as loaded"), "clean": seen(styled, "clean"),
        "again": seen(styled, "as loaded"),
    }  # fmt: skip


def test_clean_weights_are_without_loras_that_run_beside_them(inside_host, folder, tmp_path):
    unet = write_narrow_sd2(tmp_path / "narrow.safetensors")
    write_adapter_for(unet, folder / "held_adapter.safetensors")
    model = write_own_file(folder / "held.safetensors", "depth").name
    seen = inside_host(perceive_beside_a_lora, unet=unet, model=model)
    assert np.abs(seen["styled"] - seen["plain"]).max() > 1e-4
    assert np.abs(seen["clean"] - seen["plain"]).max() <= 1e-5
    assert np.abs(seen["again"] - seen["styled"]).max() <= 1e-5
