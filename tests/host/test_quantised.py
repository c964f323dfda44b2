"""An adapter on a UNet whose weights the host keeps quantised, in its own file layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from networks import write_adapter_for, write_narrow_sd2, write_own_file
from safetensors.torch import load_file, save_file

LEVELS = {"float8_e4m3fn": 448.0, "int8_tensorwise": 127.0}
"""The largest number of each format."""


def quantised(tensors: dict[str, torch.Tensor], format: str) -> dict[str, torch.Tensor]:
    """Every Linear of the attention by one scale a tensor, as the host's own files hold it."""
    layout = torch.tensor(list(json.dumps({"format": format}).encode()), dtype=torch.uint8)
    found = dict(tensors)
    for name, weight in tensors.items():
        if weight.ndim == 2 and (".attn" in name or ".ff." in name) and name.endswith(".weight"):
            scale = weight.float().abs().max() / LEVELS[format]
            levels = weight.float() / scale
            whole = levels.round().to(torch.int8) if format.startswith("int8") else levels.to(torch.float8_e4m3fn)
            stem = name.removesuffix("weight")
            found |= {name: whole, f"{stem}weight_scale": scale, f"{stem}comfy_quant": layout.clone()}
    return found


def plain(tensors: dict[str, torch.Tensor], format: str) -> dict[str, torch.Tensor]:
    """The same numbers as ordinary weights."""
    rounded = quantised(tensors, format)
    return {
        name: (rounded[name].float() * rounded[f"{name}_scale"]).half() if f"{name}_scale" in rounded else tensor
        for name, tensor in tensors.items()
    }


def perceive_quantised(files: dict, model: str, format: str) -> dict:
    import inspect

    import comfy.ops
    import comfy.sd
    import torch

    from diffusion_perception.nodes.adapt import ApplyAdapter
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    try:
        from comfy.quant_ops import QUANT_ALGOS
    except ImportError:
        QUANT_ALGOS = {}
    # older hosts know the format, and read which layers have it elsewhere
    if format not in QUANT_ALGOS or "comfy_quant" not in inspect.getsource(comfy.ops):
        return {"missing": format}
    vae = LoadModel.execute(model, "auto", "as trained", "").result[1]
    image, found = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0)), {}
    for name, file in files.items():
        users = comfy.sd.load_diffusion_model(file)
        made = ApplyAdapter.execute(users, vae, "quantised_adapter.safetensors", "as trained", "")
        found[name] = Perceive.execute(made.result[0], image, -1, 1).result[0].values
        found[f"{name} said"] = " ".join((made.ui or {}).get("text", ()))
        layer = users.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q
        found[f"{name} is linear"] = isinstance(layer, torch.nn.Linear)
    return found


@pytest.mark.parametrize("format", LEVELS)
def test_an_adapter_on_quantised_weights_sees_as_on_the_numbers_that_they_stand_for(inside_host, tmp_path, format):
    unet = write_narrow_sd2(tmp_path / "whole.safetensors")
    write_adapter_for(unet, inside_host.base / "models" / "perception" / "quantised_adapter.safetensors")
    model = write_own_file(inside_host.base / "models" / "perception" / "with_vae.safetensors", "depth").name
    tensors = load_file(unet)
    files = {"whole": unet, "quantised": tmp_path / "quantised.safetensors", "plain": tmp_path / "plain.safetensors"}
    save_file(quantised(tensors, format), files["quantised"])
    save_file(plain(tensors, format), files["plain"])
    paths = {name: str(file) for name, file in files.items()}
    seen = inside_host(perceive_quantised, files=paths, model=model, format=format)
    if "missing" in seen:
        pytest.skip(f"this ComfyUI reads no layers of {format} from a file")
    assert seen["whole is linear"]
    assert not seen["quantised is linear"]  # or nothing was quantised
    changed = np.abs(seen["plain"] - seen["whole"]).max()
    assert changed > 0
    # some formats round a layer's input too
    assert np.abs(seen["quantised"] - seen["plain"]).max() <= max(2 * changed, 1e-3)
    assert "another" not in seen["quantised said"]
