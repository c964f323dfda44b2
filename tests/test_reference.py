"""Every recipe equals a plain reading of the papers' code on diffusers' networks, written out here step by step."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.architecture import UNetArchitecture
from diffusion_perception.core.checkpoints.clues import Clues
from diffusion_perception.core.checkpoints.families import family_named, recipe_for
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone, DiffusersHead

TOLERANCE = 1e-4
SCALE = 0.18215
TOKENS = tiny.context(tokens=77)
SIZES = [(137, 181), (200, 120), (96, 144)]
DMP_BETAS = (0.00085, 0.012)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def worst(perceiver: Perceiver, image: Tensor, expected: Tensor, **options) -> float:
    """Largest absolute difference of our map and a reference (1, C, H, W)."""
    seen = predict(perceiver, image, **options).values.movedim(-1, 1)
    assert seen.shape == expected.shape
    assert expected.std() > 1e-3
    return (seen - expected).abs().max().item()


def assemble(recipe: Recipe, unet: UNet2DConditionModel, tokens: Tensor = TOKENS, **parts) -> Perceiver:
    return Perceiver(recipe, DiffusersBackbone(unet), Context(tokens), DiffusersAutoencoder(tiny.vae()), **parts)


def published(family: str, task: str, unet: UNet2DConditionModel, head: str = "") -> Recipe:
    """The recipe of a checkpoint of a family."""
    architecture: UNetArchitecture = tiny.unet_architecture(unet)
    return recipe_for(family_named(family), Clues(architecture, head=head), task)


# The steps that the pipelines share


def encode(vae: AutoencoderKL, x: Tensor) -> Tensor:
    mean, _ = vae.quant_conv(vae.encoder(x)).chunk(2, 1)
    return mean * SCALE


def decode(vae: AutoencoderKL, latent: Tensor) -> Tensor:
    return vae.decoder(vae.post_quant_conv(latent / SCALE))


def genpercept_input(image: Tensor, resolution: int) -> Tensor:
    """Bytes, resized as torchvision resizes them."""
    levels = torch.from_numpy(tiny.expected_levels(image)).movedim(-1, 0)[None].float()
    height, width = image.shape[-2:]
    if resolution > 0:
        scale = min(resolution / width, resolution / height)
        size = (int(height * scale), int(width * scale))
        levels = F.interpolate(levels, size, mode="bilinear", antialias=True).round()
    return levels / 255 * 2 - 1


def genpercept_output(picture: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    if channels == 1:
        picture = picture.mean(1, keepdim=True)
    picture = (picture.clip(-1, 1) + 1) / 2
    return F.interpolate(picture, size, mode="bilinear", antialias=True).clip(0, 1)


def scheduler(steps: int, betas: tuple[float, float], prediction_type: str = "v_prediction") -> DDIMScheduler:
    made = DDIMScheduler(
        beta_start=betas[0], beta_end=betas[1], beta_schedule="scaled_linear", prediction_type=prediction_type,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    made.set_timesteps(steps)
    return made


# GenPercept


@pytest.mark.parametrize("task", tiny.PICTURED)
@pytest.mark.parametrize(("height", "width"), SIZES[:1])
def test_one_step_of_genpercept(task, height, width):
    unet, image = tiny.unet(), tiny.picture(height, width)
    z = encode(tiny.vae(), genpercept_input(image, 128))
    schedule = scheduler(1, (1.0, 1.0))
    (t,) = schedule.timesteps
    v = unet(z, t, TOKENS[:, :2]).sample
    latent = schedule.step(v, int(t), z).pred_original_sample
    expected = genpercept_output(decode(tiny.vae(), latent), TASKS[task].channels, (height, width))
    assert worst(assemble(published("genpercept", task, unet), unet), image, expected, resolution=128) <= TOLERANCE


@pytest.mark.parametrize("resolution", [0, 96, 160, 256])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_one_step_at_any_size(height, width, resolution):
    unet, image = tiny.unet(), tiny.picture(height, width)
    z = encode(tiny.vae(), genpercept_input(image, resolution))
    latent = -unet(z, 1, TOKENS[:, :2]).sample
    expected = genpercept_output(decode(tiny.vae(), latent), 1, (height, width))
    perceiver = assemble(published("genpercept", "depth", unet), unet)
    assert worst(perceiver, image, expected, resolution=resolution) <= TOLERANCE


def test_another_timestep_and_a_schedule_with_signal():
    unet, image = tiny.unet(), tiny.picture(*SIZES[0])
    z = encode(tiny.vae(), genpercept_input(image, 128))
    schedule = scheduler(1, DMP_BETAS)
    latent = schedule.step(unet(z, 500, TOKENS[:, :2]).sample, 500, z).pred_original_sample
    expected = genpercept_output(decode(tiny.vae(), latent), 1, SIZES[0])
    changes = ["timestep=500", f"beta_start={DMP_BETAS[0]}", f"beta_end={DMP_BETAS[1]}"]
    recipe = published("genpercept", "depth", unet).override(changes)
    assert worst(assemble(recipe, unet), image, expected, resolution=128) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 5, 10])
@pytest.mark.parametrize("betas", [(0.0002125, 0.003), DMP_BETAS, (0.136, 0.192)])
def test_deterministic_steps_of_genpercept(steps, betas):
    """By the formulas: diffusers' own step gives NaN where a schedule leaves no signal at all."""
    unet, image = tiny.unet(), tiny.picture(*SIZES[0])
    x = encode(tiny.vae(), genpercept_input(image, 128))
    schedule, sample = scheduler(steps, betas), x
    for t in schedule.timesteps.tolist():
        a, after = (schedule.alphas_cumprod[max(step, 0)] for step in (t, t - 1000 // steps))
        v = unet(x, t, TOKENS[:, :2]).sample
        sample = a**0.5 * x - (1 - a) ** 0.5 * v
        x = after**0.5 * sample + (1 - after) ** 0.5 * (a**0.5 * v + (1 - a) ** 0.5 * x)
    expected = genpercept_output(decode(tiny.vae(), sample), 1, SIZES[0])
    changes = ["paradigm=deterministic", f"steps={steps}", f"beta_start={betas[0]}", f"beta_end={betas[1]}"]
    recipe = published("genpercept", "depth", unet).override(changes)
    assert worst(assemble(recipe, unet), image, expected, resolution=128) <= TOLERANCE


def test_the_baseline_with_noise_beside_the_image():
    """GenPercept's `marigold` runs: its own resize, its last sample."""
    unet, image, steps = tiny.unet(8), tiny.picture(*SIZES[0]), 4
    z = encode(tiny.vae(), genpercept_input(image, 128))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    schedule, x, out = scheduler(steps, DMP_BETAS), noise, None
    for t in schedule.timesteps:
        out = schedule.step(unet(torch.cat([z, x], 1), t, TOKENS[:, :2]).sample, int(t), x)
        x = out.prev_sample
    assert out is not None
    expected = genpercept_output(decode(tiny.vae(), out.pred_original_sample), 1, SIZES[0])
    recipe = Recipe(
        "depth", paradigm="stochastic", steps=steps, beta_start=DMP_BETAS[0], beta_end=DMP_BETAS[1], tokens=2
    )
    assert worst(assemble(recipe, unet), image, expected, resolution=128, noise=noise) <= TOLERANCE


def up_features(unet: UNet2DConditionModel, x: Tensor, t: Tensor, text: Tensor) -> list[Tensor]:
    """What each up block gives: the forward pass of the network, written out."""
    embedding = unet.time_embedding(unet.time_proj(t).to(x.dtype))
    x = unet.conv_in(x)
    skips = [x]
    for block in unet.down_blocks:
        if getattr(block, "has_cross_attention", False):
            x, more = block(hidden_states=x, temb=embedding, encoder_hidden_states=text)
        else:
            x, more = block(hidden_states=x, temb=embedding)
        skips += more
    assert unet.mid_block is not None
    x = unet.mid_block(x, embedding, encoder_hidden_states=text)
    features = []
    for block in unet.up_blocks:
        own, skips = tuple(skips[-len(block.resnets) :]), skips[: -len(block.resnets)]
        size = skips[-1].shape[-2:] if skips else None
        arguments = {"hidden_states": x, "res_hidden_states_tuple": own, "temb": embedding, "upsample_size": size}
        if getattr(block, "has_cross_attention", False):
            arguments["encoder_hidden_states"] = text
        x = block(**arguments)
        features.append(x)
    return features


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_dpt_head_of_genpercept(height, width):
    unet, image = tiny.unet(), tiny.picture(height, width)
    z = encode(tiny.vae(), genpercept_input(image, 128))
    deepest, deep, middle, fine = up_features(unet, z, torch.tensor([1]), TOKENS[:, :2])
    out = tiny.dpt_head()((deepest, deep, middle, fine))
    out = (out - out.min()) / (out.max() - out.min())
    expected = F.interpolate(out, (height, width), mode="bilinear", antialias=True).clip(0, 1)
    recipe = published("genpercept-dpt", "disparity", unet, head="dpt_head_identity")
    perceiver = assemble(recipe, unet, head=DiffusersHead(tiny.dpt_head()))
    assert worst(perceiver, image, expected, resolution=128) <= TOLERANCE


@pytest.mark.parametrize(
    ("task", "mode"), [("depth", "bilinear"), ("normal", "bilinear"), ("mask", "nearest"), ("segmentation", "nearest")]
)
def test_genpercept_v1(task, mode):
    """Pillow's resize, 77 tokens, minus the network's output; depth stretched at the image's own size."""
    unet, image, (height, width) = tiny.unet(), tiny.picture(*SIZES[0]), SIZES[0]
    scale = min(128 / width, 128 / height)
    small = Image.fromarray(tiny.expected_levels(image)).resize((int(width * scale), int(height * scale)))
    x = torch.from_numpy(np.asarray(small).copy()).movedim(-1, 0)[None].float() / 255 * 2 - 1
    picture = decode(tiny.vae(), -unet(encode(tiny.vae(), x), 1, TOKENS).sample)
    if TASKS[task].channels == 1:
        picture = picture.mean(1, keepdim=True)
    picture = F.interpolate(picture.clip(-1, 1), (height, width), mode=mode)
    stretched = (picture - picture.min()) / (picture.max() - picture.min())
    expected = stretched if task == "depth" else (picture + 1) / 2
    perceiver = assemble(published("genpercept-v1", task, unet), unet)
    seen = predict(perceiver, image, resolution=128).values.movedim(-1, 1)
    # Pillow computes bytes in fixed point: one level in a hundred is the next one
    difference = (seen - expected).abs()
    assert difference.mean() <= 1e-3
    assert difference.max() <= 0.05


# DMP


def dmp_input(image: Tensor, resolution: int) -> Tensor:
    height, width = image.shape[-2:]
    size = (
        (resolution, int(resolution * width / height))
        if height <= width
        else (int(resolution * height / width), resolution)
    )
    return F.interpolate(image * 2 - 1, size, mode="bicubic")


def dmp_walk(unet: UNet2DConditionModel, x: Tensor, kind: str, keep: bool, guidance: float, negative: Tensor) -> Tensor:
    """Five steps of DDIM from the image latent; the last x_(t-1), as its pipeline decodes it."""
    schedule, y = scheduler(5, DMP_BETAS, kind), x
    for t in schedule.timesteps.tolist():
        if guidance != 1:
            both = unet(torch.cat([y, y]), t, torch.cat([TOKENS, negative])).sample
            positive, uncond = both.chunk(2)
            output = uncond + guidance * (positive - uncond)
        else:
            output = unet(y, t, TOKENS).sample
        step = schedule.step(output, t, y)
        before = t - 200
        a = schedule.alphas_cumprod[before] if before >= 0 else schedule.final_alpha_cumprod
        y = a**0.5 * step.pred_original_sample + (1 - a) ** 0.5 * x if keep else step.prev_sample
    return y


@pytest.mark.parametrize(
    ("kind", "keep", "guidance"),
    [
        ("v_prediction", False, 1.0),
        ("v_prediction", True, 1.0),
        ("v_prediction", False, 2.0),
        ("epsilon", False, 1.0),
        ("sample", True, 1.0),
    ],
)
def test_five_steps_of_dmp(kind, keep, guidance):
    unet, image = tiny.unet(generation=1), tiny.picture(*SIZES[0])
    negative = tiny.context(6, tokens=77)
    latent = dmp_walk(unet, encode(tiny.vae(), dmp_input(image, 128)), kind, keep, guidance, negative)
    grey = decode(tiny.vae(), latent).mean(1, keepdim=True)
    expected = F.interpolate((grey / 2 + 0.5).clamp(min=0) * 8, SIZES[0], mode="bicubic")
    recipe = Recipe(
        "depth", paradigm="deterministic", steps=5, beta_start=DMP_BETAS[0], beta_end=DMP_BETAS[1],
        prediction_type=kind, keep_image=keep, final="previous", guidance_scale=guidance, resize="dmp",
        codec="unbounded", target_scale=8, metric=True,
    )  # fmt: skip
    perceiver = assemble(recipe, unet, negative=Context(negative))
    assert worst(perceiver, image, expected, resolution=128) <= 8 * TOLERANCE
