"""An adapter and its base predict what the published code predicts."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from tiny_adapters import KINDS, assert_same, fixed, layers_of, random_adapter, saved, spelled
from torch import Tensor, nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapter_file import read_adapter
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.bases import one_by_one, open_adapted
from diffusion_perception.core.checkpoints.context import prompt_tokens
from diffusion_perception.core.checkpoints.fingerprint import fingerprint, matches
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.pipeline import denoise, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import load_perceiver, named_context
from diffusion_perception.trainer.perceiver import read_upright


def ddim_reference(network, image, tokens, recipe: Recipe, negative=None) -> Tensor:
    """DMP's generation with diffusers' own scheduler, in double precision."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=recipe.prediction_type,
    )  # fmt: skip
    scheduler.set_timesteps(recipe.steps)
    latent = image
    for timestep in scheduler.timesteps:
        output = network(latent, timestep, tokens).sample
        if negative is not None:
            plain = network(latent, timestep, negative).sample
            output = plain + recipe.guidance_scale * (output - plain)
        latent = scheduler.step(output, timestep, latent).prev_sample
    return latent


class Double:
    """A backbone in double precision, which leaves no room for rounding."""

    def __init__(self, network) -> None:
        self.network, self.in_channels = network, 4

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return self.network(latent, timestep, context.tokens.double()).sample

    def modules(self) -> dict[str, nn.Module]:
        return layers_of(self.network)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample", "epsilon"])
def test_dmp_is_ddim_from_the_image_to_the_last_digit(tmp_path, prediction_type, guidance_scale):
    base = tiny.unet(generation=1)
    published = random_adapter(base, KINDS["attention"], rank=4)
    folder = tmp_path / "depth-hypersim-notext"
    saved(folder / "pytorch_lora_weights.safetensors", spelled(published, "diffusers processors"))
    tiny.write(tmp_path / "base" / "unet", base)
    checkpoint, adapter = open_adapted(open_networks(tmp_path / "base"), folder)
    assignments = [f"prediction_type={prediction_type}", f"guidance_scale={guidance_scale}"]
    recipe = checkpoint.recipe.override(assignments)
    network, twin = (copy.deepcopy(base).double() for _ in range(2))
    for name, part in published.parts.items():
        twin.get_submodule(name).weight += part.up.double() @ part.down.double()
    prompt, empty = tiny.context(5, 77), tiny.context(6, 77)
    backbone = Adapted(Double(network), adapter)
    perceiver = replace(tiny.perceiver(recipe, tokens=prompt), backbone=backbone, negative=Context(empty))
    image = fixed(1, 4, 8, 12, scale=1.0).double()
    negative = empty.double() if guidance_scale != 1 else None
    expected = ddim_reference(twin, image, prompt.double(), recipe, negative)
    assert (denoise(perceiver, image) - expected).abs().max() < 1e-6 * expected.abs().max()


def test_a_published_dmp_folder_says_its_recipe(tmp_path):
    tiny.write(tmp_path / "base" / "unet", tiny.unet(generation=1))
    base = open_networks(tmp_path / "base")
    tensors = spelled(random_adapter(tiny.unet(generation=1), KINDS["attention"], rank=4), "diffusers processors")
    recipes = {}
    for name in ("normal-scene100-notext", "depth-hypersim-notext", "albedo-bedroom"):
        saved(tmp_path / name / "pytorch_lora_weights.safetensors", tensors)
        recipes[name] = open_adapted(base, tmp_path / name)[0].recipe
    assert [recipe.task for recipe in recipes.values()] == ["normal", "depth", "albedo"]
    assert [recipe.guidance_scale for recipe in recipes.values()] == [1, 1, 2]
    depth = recipes["depth-hypersim-notext"]
    assert (depth.steps, depth.target_scale, depth.metric, depth.resolution, depth.tokens) == (5, 8, True, 512, 0)


def test_a_single_checkpoint_file_is_a_base(tmp_path):
    path = tiny.write_ldm(tmp_path / "sd21.safetensors")
    adapter = random_adapter(tiny.unet(), KINDS["attention"])
    lora = saved(tmp_path / "lora.safetensors", spelled(adapter, "comfyui"))
    base = open_networks(path)
    checkpoint, read = open_adapted(base, lora, "genpercept", "depth")
    assert_same(read, adapter)
    assert checkpoint.vae is not None
    assert matches(fingerprint(one_by_one(base.unet)), fingerprint(tiny.unet().state_dict().__getitem__))


@pytest.mark.parametrize(("stated", "pad"), [({"content": "<|endoftext|>"}, 3), ("!", 0)])
def test_the_empty_prompt_is_padded_as_its_tokenizer_pads(tmp_path, stated, pad):
    vocabulary = {"!": 0, "<|startoftext|>": 2, "<|endoftext|>": 3}
    tiny.write_json(tmp_path / "tokenizer" / "vocab.json", vocabulary)
    tiny.write_json(tmp_path / "tokenizer" / "special_tokens_map.json", {"pad_token": stated})
    assert prompt_tokens(tmp_path / "text_encoder", []) == [2, 3]
    assert prompt_tokens(tmp_path / "text_encoder", [], padded=True) == [2, 3, *[pad] * 75]


GOLDEN = Path("dmp_lora")
LIMITS = {5: (3e-4, 5e-4), 10: (2.5e-3, 6e-3)}
"""Steps -> largest difference of latent and of decoded picture. Ten steps multiply rounding: the authors' own answer is
6e-4 and 1.5e-3 away from what their function gives in double precision."""


def golden_names() -> list[str]:
    kinds = ("rgb_v_5", "rgb_v_5_oracle", "rgb_v_5_prompt_guidance2")
    more = ("depth_v_5_scale8", "depth_v_10_normalized", "rgb_y_5_oracle", "rgb_x_5_oracle")
    return [f"full_attention/{kind}" for kind in kinds + more] + [f"self_attention_only/{kind}" for kind in kinds]


def golden_settings(case: dict) -> list[str]:
    """What a golden case changes in DMP's recipe."""
    scale = f"target_scale={case['scale']}"
    return [
        f"steps={case['steps']}",
        f"prediction_type={case['pred']}",
        f"keep_image={str(case['oracle']).lower()}",
        f"guidance_scale={case['gs'] if case['prompts'] else 1}",
        *([scale] if case["mode"] == "F" else []),
    ]


class Recorder:
    """An autoencoder that keeps what it was given to decode, and what it made of it."""

    def __init__(self, autoencoder) -> None:
        self.autoencoder, self.scaling_factor = autoencoder, autoencoder.scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        return self.autoencoder.encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        self.latent, self.decoded = latent, self.autoencoder.decode(latent)
        return self.decoded


@pytest.mark.parametrize("name", golden_names())
def test_dmps_own_code_gives_the_same(golden, name):
    folder = golden / GOLDEN
    case = next(case for case in json.loads((folder / "cases.json").read_text())["cases"] if case["name"] == name)
    expected = np.load(folder / "expected.npz")
    task = "depth" if case["mode"] == "F" else "albedo"
    checkpoint, adapter = open_adapted(open_networks(folder), folder / case["lora"], task=task)
    checkpoint = replace(checkpoint, recipe=checkpoint.recipe.override(golden_settings(case)))
    texts = f"{folder}/text_embeds.safetensors"
    prompt = f"{texts}:{'prompt_embed' if case['prompts'] else 'empty_text_embed'}"
    perceiver = load_perceiver(checkpoint, adapter, context=named_context(prompt, checkpoint.architecture))
    record = Recorder(perceiver.autoencoder)
    negative = named_context(f"{texts}:empty_text_embed", checkpoint.architecture)
    with torch.inference_mode():
        image = read_upright(folder / "image.png")
        values = predict(replace(perceiver, autoencoder=record, negative=negative), image, resolution=0).values[0]
    of_latent, of_picture = LIMITS[case["steps"]]
    assert np.abs(record.latent.numpy() - expected[f"{name}/latent"]).max() <= of_latent
    assert np.abs(record.decoded.numpy() - expected[f"{name}/decoded"]).max() <= of_picture
    output = expected[f"{name}/output"].astype(np.float32)
    if case["mode"] == "RGB":
        assert np.abs((values * 255).round().numpy() - output).max() <= 1
    else:
        assert np.abs(values[..., 0].numpy() - output).max() <= of_picture * max(case["scale"], 1)


def test_every_golden_case_is_tested(golden):
    cases = json.loads((golden / GOLDEN / "cases.json").read_text())["cases"]
    assert sorted(case["name"] for case in cases) == sorted(golden_names())


def test_the_published_bin_and_safetensors_are_one_adapter(golden):
    for name in ("lora_full_attention", "lora_self_attention_only"):
        folder = golden / GOLDEN / name
        one, other = (read_adapter(folder / f"pytorch_lora_weights{suffix}") for suffix in (".bin", ".safetensors"))
        assert_same(one, other)
        tensors = load_file(folder / "pytorch_lora_weights.safetensors")
        assert 2 * len(one.parts) == len(tensors)
