"""Random weights of the real models' size load and run in the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from graph import perceive_file
from networks import random_weights
from PIL import Image
from safetensors.torch import save_file
from tiny_adapters import KINDS, adapter_of, layers_of

from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import LowRank
from diffusion_perception.core.checkpoints.layers import shapes_of
from diffusion_perception.core.recipe import Recipe

pytestmark = pytest.mark.realsize


def write_sd21(folder, in_channels: int) -> None:
    """A repository of an SD2.1-sized UNet and the full VAE, in half precision, without a text context of its own."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            in_channels=in_channels, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=1024, use_linear_projection=True,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    for name, network in (("unet_depth_v2", unet), ("vae", vae)):
        (folder / name).mkdir(parents=True)
        save_file(random_weights(network, 0), folder / name / "diffusion_pytorch_model.safetensors")
    if in_channels == 8:
        (folder / "unet_depth_v2").rename(folder / "unet")
        (folder / "model_index.json").write_text(
            '{"_class_name": "MarigoldDepthPipeline", "default_denoising_steps": 1}'
        )


@pytest.mark.parametrize("in_channels", [4, 8])
def test_sd21_sized_weights_run_at_512(comfyui, in_channels):
    folder = comfyui.models / "perception" / f"sd21 of {in_channels} channels"
    write_sd21(folder, in_channels)
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    Image.fromarray(pixels).save(comfyui.input / "large.png")
    graph, saved = perceive_file(folder.name, "large.png", "large", resolution=512)
    values = np.load(comfyui.submit(graph, timeout=1800).files(saved.name)[0])
    assert values.shape == (512, 512)
    assert np.isfinite(values).all()
    assert values.std() > 0
    comfyui.free()


MEGABYTE = 10**6


def write_rank_16(path: Path, network: UNet2DConditionModel, kinds: tuple[str, ...]) -> Path:
    """An adapter in half precision on all layers of these kinds."""
    generator = torch.Generator().manual_seed(1)
    parts = {}
    for name, layer in layers_of(network).items():
        if any(KINDS[kind](name, layer) for kind in kinds):
            out, *inputs = shapes_of({"": layer})[".weight"]
            inputs = inputs[:1] if inputs[1:] == [1, 1] else inputs
            down = torch.randn(16, *inputs, generator=generator) * 1e-3
            parts[name] = LowRank(down.half(), (torch.randn(out, 16, generator=generator) * 1e-3).half())
    write_adapter(path, adapter_of(parts, base="sd15", recipes=(Recipe("depth", base="sd15"),)))
    return path


def memory_of_calls(unet, adapters):
    """One pass over a 512x512 picture's latent, without and with each adapter: bytes by PyTorch's own allocator."""
    from pathlib import Path

    import comfy.sd
    import torch
    from torch.profiler import ProfilerActivity, profile

    from diffusion_perception.core.backbone import Context
    from diffusion_perception.core.checkpoints.adapter_file import read_adapter
    from diffusion_perception.core.checkpoints.attachment import Adapted
    from diffusion_perception.nodes import host

    backbone = host.resident(comfy.sd.load_diffusion_model(unet), clean=False)
    latent = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs = latent, torch.tensor([1.0]), Context(torch.zeros(1, 77, 768))
    backbone(latent[..., :8, :8], *inputs[1:])

    def measured(network):
        """Peak above what was there before, and what is left when the answer is dropped."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            network(*inputs)
        profiler: Any = watched.profiler
        events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
        level = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            level += event.nbytes()
            peak = max(peak, level)
        return peak, level

    plain, _ = measured(backbone)
    found = {}
    for path in adapters:
        adapter = read_adapter(Path(path))
        held = sum(value.nbytes for part in adapter.parts.values() for value in (part.down, part.up))
        peak, left = measured(Adapted(backbone, adapter))
        found[Path(path).stem] = {"held": held, "call": peak - plain, "left": left, "layers": len(adapter.parts)}
    return {"plain": plain, **found}


def test_an_adapter_of_rank_16_takes_less_than_40_megabytes_at_sd15_size(inside_host, tmp_path):
    with torch.device("meta"):
        network = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768
        )
    save_file(random_weights(network, 0), tmp_path / "unet.safetensors")
    adapters = [
        write_rank_16(tmp_path / "attention.safetensors", network, ("attention",)),
        write_rank_16(tmp_path / "everything.safetensors", network, tuple(KINDS)),
    ]
    seen = inside_host(memory_of_calls, unet=tmp_path / "unet.safetensors", adapters=adapters, timeout=1800)
    print(seen)  # noqa: T201 the figures are what it is about
    for name in ("attention", "everything"):
        # what the file holds, kept as long as the graph does, and what a call adds to the peak of the UNet itself
        assert seen[name]["held"] + seen[name]["call"] < 40 * MEGABYTE, seen
        assert seen[name]["left"] == 0, seen
