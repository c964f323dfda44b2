"""A UNet with DepthMaster's Fourier block in a real ComfyUI: the same network as in diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import test_fourier
from test_streaming import make_layers_on_loading

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.trainer.host import DiffusersBackbone, load_unet


def run_in_host(model: str, latent, timestep, context, lazy: bool) -> dict:
    from pathlib import Path

    import numpy as np
    import torch

    from diffusion_perception.core.backbone import Context
    from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
    from diffusion_perception.nodes.host import load_backbone

    if lazy:
        make_layers_on_loading()
    checkpoint = open_checkpoint(Path(model))
    backbone = load_backbone(checkpoint.unet, checkpoint.architecture)
    given = [torch.from_numpy(np.array(array, np.float32)) for array in (latent, timestep, context)]
    inputs = (*given[:2], Context(given[2]))
    features = backbone.features(*inputs)
    return {
        "prediction": backbone(*inputs),
        "deepest": features[0],
        "layers": sorted(backbone.modules()),
        "weight": backbone.weight("fftblock.conv_f4.weight"),
    }


@pytest.mark.parametrize(
    ("precision", "lazy", "tolerance"),
    [("--fp32-unet", False, 1e-4), ("--fp32-unet", True, 1e-4), ("--force-fp16", False, 0.05)],
)
def test_the_hosts_network_is_diffusers(inside_host, tmp_path, precision, lazy, tolerance):
    path = tmp_path / "fourier.safetensors"
    test_fourier.own_file(path)
    checkpoint = open_checkpoint(path)
    backbone = DiffusersBackbone(load_unet(checkpoint.unet, checkpoint.architecture))
    latent, timestep, context = test_fourier.inputs()
    given = {"latent": latent.numpy(), "timestep": timestep.numpy(), "context": context.tokens.numpy()}
    seen = inside_host(
        run_in_host, make_layers_on_loading, model=path, lazy=lazy, host_arguments=("--cpu", precision), **given
    )
    expected = test_fourier.hooked(latent, timestep, context).numpy()
    assert np.abs(seen["prediction"] - expected).max() <= tolerance
    deepest = backbone.features(latent, timestep, context)[0].numpy()
    assert np.abs(seen["deepest"] - deepest).max() <= tolerance * max(1, np.abs(deepest).max())
    assert seen["layers"] == sorted(backbone.modules())
    assert np.abs(seen["weight"] - test_fourier.tensors()["fftblock.conv_f4.weight"].numpy()).max() <= 1e-3
