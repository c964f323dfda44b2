"""Random weights of the real models' size load and run in the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from graph import perceive_file
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.realsize


def random_weights(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Half-precision weights that keep a signal's size, for a network that was made without memory."""
    generator = torch.Generator().manual_seed(seed)

    def of(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.full(shape, float("norm" in name and name.endswith("weight")), dtype=torch.float16)
        return (torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5).half()

    return {name: of(name, tensor.shape) for name, tensor in network.state_dict().items()}


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
