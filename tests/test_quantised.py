"""Networks whose weights were packed into fewer bits are refused by who packed them, and with what to get instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.library import Library
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.trainer.cli import main

Packed = dict[str, Tensor]


def each_matrix(pack: Callable[[str, Tensor], Packed]) -> Packed:
    """The tiny UNet with every Linear of its attention packed."""
    found: Packed = {}
    for name, weight in tiny.unet().state_dict().items():
        packs = weight.ndim == 2 and ".attn" in name
        found |= pack(name.removesuffix(".weight"), weight) if packs else {name: weight}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def nf4(layer: str, weight: Tensor) -> Packed:
    return {
        f"{layer}.weight": torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        f"{layer}.weight.absmax": torch.ones(weight.numel() // 64),
        f"{layer}.weight.quant_map": torch.ones(16),
        f"{layer}.weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    }


def int8(layer: str, weight: Tensor) -> Packed:
    return {
        f"{layer}.weight": torch.zeros(weight.shape, dtype=torch.int8),
        f"{layer}.SCB": torch.ones(len(weight)),
        f"{layer}.weight_format": torch.zeros((), dtype=torch.uint8),
    }


def scaled(factor: str) -> Callable[[str, Tensor], Packed]:
    return lambda layer, weight: {
        f"{layer}.weight": weight.to(torch.float8_e4m3fn),
        f"{layer}.{factor}": torch.ones(()),
    }


def quanto(layer: str, weight: Tensor) -> Packed:
    return {f"{layer}.weight._data": weight.to(torch.int8), f"{layer}.weight._scale": torch.ones(len(weight), 1)}


def gptq(layer: str, weight: Tensor) -> Packed:
    return {f"{layer}.qweight": weight.to(torch.int32), f"{layer}.qzeros": weight[:1].to(torch.int32)}


def svdquant(layer: str, weight: Tensor) -> Packed:
    return {f"{layer}.qweight": weight.to(torch.int8), f"{layer}.wscales": torch.ones(len(weight))}


KINDS: dict[str, tuple[Packed, str]] = {
    "nf4": (each_matrix(nf4), "bitsandbytes"),
    "int8": (each_matrix(int8), "bitsandbytes"),
    "scale_weight": ({**each_matrix(scaled("scale_weight")), "scaled_fp8": torch.ones(2)}, "scaled fp8"),
    "weight_scale": (each_matrix(scaled("weight_scale")), "scaled fp8"),
    "comfy_quant": (each_matrix(scaled("comfy_quant")), "scaled fp8"),
    "quanto": (each_matrix(quanto), "quanto"),
    "GPTQ": (each_matrix(gptq), "GPTQ or AWQ"),
    "SVDQuant": (each_matrix(svdquant), "SVDQuant"),
}


@pytest.mark.parametrize(("tensors", "packer"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_packed_network_is_refused_by_who_packed_it(tmp_path, tensors, packer, prefix):
    if prefix:
        path = tmp_path / "genpercept.safetensors"
        save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, path)
    else:
        path = tiny.write_genpercept(tmp_path / "hub", ["unet_depth_v2"])
        save_file(tensors, path / "unet_depth_v2" / tiny.WEIGHTS)
    for open_it in (open_checkpoint, open_networks):
        opened = path / "unet_depth_v2" if path.is_dir() and open_it is open_networks else path
        with pytest.raises(CheckpointError, match=rf"is quantised \({packer}\); get the fp16 file"):
            open_it(opened)
    assert any(name.startswith(path.name) for name in Library(lambda: [tmp_path], "x").choices())


@pytest.mark.parametrize("name", ["x.gguf", "x.safetensors"])
def test_gguf_is_refused_by_what_it_is(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"GGUF\3\0\0\0" + bytes(100))
    with pytest.raises(CheckpointError, match=r"is quantised \(GGUF\); get the fp16 file"):
        open_checkpoint(tmp_path / name)
    assert main(["info", str(tmp_path / name)]) == 2
    assert "quantised (GGUF)" in capsys.readouterr().err


def test_whole_numbers_that_nothing_explains_are_refused_too(tmp_path):
    path = tiny.write_genpercept(tmp_path / "hub", ["unet_depth_v2"])
    tensors = tiny.unet().state_dict()
    save_file(
        {**tensors, "conv_out.weight": tensors["conv_out.weight"].to(torch.int8)}, path / "unet_depth_v2" / tiny.WEIGHTS
    )
    with pytest.raises(CheckpointError, match=r"keeps conv_out\.weight as whole numbers: get the fp16 file"):
        open_checkpoint(path).unet.load()


def depth_of(tmp_path: Path, dtype: torch.dtype) -> np.ndarray:
    """By a network whose weights were rounded to 8 bits and stored in this dtype."""
    path = tiny.write_genpercept(tmp_path / str(dtype), ["unet_depth_v2"])
    small = {name: weight.to(torch.float8_e4m3fn).to(dtype) for name, weight in tiny.unet().state_dict().items()}
    save_file(small, path / "unet_depth_v2" / tiny.WEIGHTS)
    image = tiny.save_picture(tmp_path / "photo.png", 48, 64)
    words = ["predict", "--model", path, "--task", "depth", "--resolution", "48", "--out", path / "out", image]
    assert main([str(word) for word in words]) == 0
    return np.load(path / "out" / "photo.npy")


def test_a_network_of_plain_eight_bits_runs_as_its_copy_in_half_precision(tmp_path):
    assert np.array_equal(depth_of(tmp_path, torch.float8_e4m3fn), depth_of(tmp_path, torch.float16))
