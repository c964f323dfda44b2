"""Features of the host's UNet are diffusers', and to have looked at them leaves no trace on the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from networks import FOUR_LEVELS, SD1, SD2, under
from safetensors.torch import save_file
from tiny_adapters import KINDS, random_adapter

from diffusion_perception.core.backbone import Backbone, Context
from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.ldm_names import unet_to_ldm
from diffusion_perception.trainer.host import DiffusersBackbone

GENERATIONS = {"SD 1.x": SD1, "SD 2.x": SD2}
SIZES = [(13, 21), (9, 8), (8, 16), (17, 1)]
"""Of latents: odd ones are rounded up by every level on the way down, and cut again on the way up."""


@pytest.fixture(scope="module", params=list(GENERATIONS))
def network(request) -> UNet2DConditionModel:
    torch.manual_seed(2)
    made = UNet2DConditionModel(**FOUR_LEVELS, **GENERATIONS[request.param])
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet(network, tmp_path_factory):
    """The same weights as a file that the host's own detection knows."""
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    tensors = under("model.diffusion_model.", network.state_dict(), unet_to_ldm((True, True, True, False), 1))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def inputs_of(size: tuple[int, int], width: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(size[0])
    latent, context = torch.randn(2, 4, *size, generator=generator), torch.randn(2, 5, width, generator=generator)
    return {"latent": latent.numpy(), "timestep": np.array([1, 501], np.float32), "context": context.numpy()}


def features_in_host(unet, adapter, calls):
    """What the up blocks of a MODEL give for each call, and whether anything of the model is another afterwards."""
    import copy
    from pathlib import Path

    import comfy.model_management as management
    import comfy.sd
    import numpy as np
    import torch

    from diffusion_perception.core.backbone import Context
    from diffusion_perception.core.checkpoints.adapter_file import read_adapter
    from diffusion_perception.core.checkpoints.attachment import Adapted
    from diffusion_perception.nodes import host

    patcher = comfy.sd.load_diffusion_model(unet)
    meant_for_sampling = []

    def users_patch(h, skip, options):
        meant_for_sampling.append(options["block"])
        return h * 2, skip

    patcher.set_model_output_block_patch(users_patch)
    patcher.add_object_patch("model_sampling", copy.deepcopy(patcher.model.model_sampling))
    layer = patcher.model.diffusion_model.time_embed[0]
    hook = layer.register_forward_hook(lambda *arguments: None)

    def generate():
        management.load_models_gpu([patcher])
        options = patcher.model_options["transformer_options"]
        text = torch.ones(1, 3, patcher.model.model_config.unet_config["context_dim"])
        return patcher.model.apply_model(
            torch.ones(1, 4, 8, 8), torch.ones(1), c_crossattn=text, transformer_options=options.copy()
        )

    def trace():
        network = patcher.model.diffusion_model
        return {
            "options": repr(patcher.model_options), "object patches": repr(patcher.object_patches),
            "patches": repr(patcher.patches), "uuid": str(patcher.patches_uuid), "backup": sorted(patcher.backup),
            "wrappers": repr(patcher.wrappers), "callbacks": repr(patcher.callbacks),
            "current patcher": repr(patcher.model.current_patcher),
            "attributes": sorted(vars(network)), "training": [module.training for module in network.modules()],
            "hooks": [
                [list(module._forward_hooks), list(module._forward_pre_hooks), module.forward.__qualname__]
                for module in network.modules()
            ],
            "casting": [getattr(module, "comfy_cast_weights", None) for module in network.modules()],
        }  # fmt: skip

    before = generate()
    weights = {name: tensor.clone() for name, tensor in patcher.model.state_dict().items()}
    traced, sampled = trace(), len(meant_for_sampling)
    backbone = host.resident(patcher, clean=False)
    adapted = Adapted(backbone, read_adapter(Path(adapter)))
    found = {}
    for name, call in calls.items():
        arrays = [torch.from_numpy(np.asarray(call[key], np.float32)) for key in ("latent", "timestep", "context")]
        inputs = (*arrays[:2], Context(arrays[2]))
        for kind, network in {"plain": backbone, "adapted": adapted}.items():
            for level, feature in enumerate(network.features(*inputs)):
                found[f"{name} {kind} {level}"] = feature
    touched = len(meant_for_sampling) - sampled
    changed = [key for key, value in trace().items() if value != traced[key]]
    same = all(torch.equal(tensor, weights[name]) for name, tensor in patcher.model.state_dict().items())
    again = torch.equal(before, generate())
    hook.remove()
    return {**found, "changed": changed, "same": same, "again": again, "touched": touched}


def features_of(backbone: Backbone, call: dict[str, np.ndarray]) -> list[np.ndarray]:
    latent, timestep, context = (torch.from_numpy(call[key]) for key in ("latent", "timestep", "context"))
    return [feature.numpy() for feature in backbone.features(latent, timestep, Context(context))]


def test_features_equal_diffusers_at_odd_sizes_and_leave_no_trace(inside_host, network, unet, tmp_path):
    adapter: Adapter = random_adapter(network, KINDS["attention"])
    write_adapter(tmp_path / "adapter.safetensors", adapter)
    width = network.config["cross_attention_dim"]
    calls = {f"{size[0]}x{size[1]}": inputs_of(size, width) for size in SIZES}
    plain = {name: {key: value.tolist() for key, value in call.items()} for name, call in calls.items()}
    seen = inside_host(features_in_host, unet=unet, adapter=tmp_path / "adapter.safetensors", calls=plain)
    backbone = DiffusersBackbone(network)
    for name, call in calls.items():
        for kind, ours in {"plain": backbone, "adapted": Adapted(backbone, adapter)}.items():
            for level, expected in enumerate(features_of(ours, call)):
                found = seen[f"{name} {kind} {level}"]
                assert found.shape == expected.shape
                worst = np.abs(found - expected).max() / max(1, np.abs(expected).max())
                assert worst <= 1e-4, (name, kind, level, worst)
    assert seen["changed"] == []
    assert seen["same"]
    assert seen["again"]
    assert seen["touched"] == 0
