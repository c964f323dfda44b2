"""Every family equals diffusers' own pipeline where there is one, bent to it where needed, else its authors' steps on
diffusers' networks, written out here; on other weights, sizes and seeds than the golden vectors, and without them."""

from __future__ import annotations

import functools
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_families
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    LCMScheduler,
    MarigoldDepthPipeline,
    MarigoldIntrinsicsPipeline,
    MarigoldNormalsPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from test_reference import decode, encode
from tiny_families import LCM, PUBLISHED, ZERO, Published
from torch import Tensor

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.assemble import told
from diffusion_perception.core.checkpoints.clues import Clues
from diffusion_perception.core.checkpoints.families import family_named, recipe_for
from diffusion_perception.core.perception_map import PerceptionMap
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone, make_unet

TOLERANCE = 1e-4
ROWS = {row.repository: row for row in PUBLISHED}
ODD = (101, 139)
WHOLE = (96, 136)
"""Of whole latents, so that nothing is resized or padded."""
TEXT = tiny.context(seed=31, tokens=77)
SEED = 7
LABEL = torch.tensor([[np.sin(1.0), 0.0, np.cos(1.0), 1.0]], dtype=torch.float32)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def network(row: Published) -> UNet2DConditionModel:
    """Another one for each test, for some are bent."""
    return deepcopy(tiny_families.unet(*row.channels, row.classes, row.fourier, seed=SEED))


def perceiver(row: Published, task: str = "", *changes: str) -> Perceiver:
    """As its repository is run."""
    trained = network(row)
    architecture = tiny.unet_architecture(trained)
    clues = Clues(architecture, row.folder, row.repository, row.index, row.scheduler)
    recipe = recipe_for(family_named(row.family), clues, task).override(list(changes))
    unet = make_unet(architecture).eval().requires_grad_(False)
    unet.load_state_dict(trained.state_dict())
    parts = DiffusersBackbone(unet), told(recipe, Context(TEXT)), DiffusersAutoencoder(tiny.vae())
    return Perceiver(recipe, *parts)


def same(seen: PerceptionMap, expected: Tensor | np.ndarray, tolerance: float = TOLERANCE) -> None:
    """expected: (B, C, H, W), or (B, H, W, C) if of NumPy."""
    wanted = torch.from_numpy(expected) if isinstance(expected, np.ndarray) else expected.movedim(1, -1)
    assert seen.values.shape == wanted.shape
    assert wanted.std() > 1e-3
    assert (seen.values - wanted).abs().max().item() <= tolerance


def draw(*shape: int, seed: int = 11) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Of a picture whose longer edge is brought to this and padded."""
    height, width = (-(-(length * resolution // max(size)) // 8) for length in size)
    return height, width


def official(kind: Any, unet: UNet2DConditionModel, scheduler: Any, **config: Any) -> Any:
    """One of diffusers' pipelines of Marigold."""
    parts = {"unet": unet, "vae": tiny.vae(), "scheduler": scheduler, "text_encoder": None, "tokenizer": None}
    pipeline = kind(**parts, default_denoising_steps=1, default_processing_resolution=0, **config)
    pipeline.empty_text_embedding = TEXT[:, :2]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def official_latent(unet: UNet2DConditionModel, scheduler: Any, image: Tensor, noise: Tensor) -> Tensor:
    """What one step of Marigold's pipeline ends at; image: of WHOLE size."""
    pipeline = official(MarigoldDepthPipeline, unet, scheduler, prediction_type="depth")
    return pipeline(image, num_inference_steps=1, latents=noise, output_latent=True).latent


def one_step(prediction_type: str) -> DDIMScheduler:
    """A step that ends at the sample itself."""
    return DDIMScheduler.from_config({**ZERO, "rescale_betas_zero_snr": False, "set_alpha_to_one": True,
                                      "prediction_type": prediction_type})  # fmt: skip


def shorter(image: Tensor, resolution: int) -> Tensor:
    """In [-1, 1], the longer edge brought to this."""
    height, width = image.shape[-2:]
    size = (height * resolution // max(height, width), width * resolution // max(height, width))
    return F.interpolate(image * 2 - 1, size, mode="bilinear", antialias=True)


def levels(image: Tensor, resolution: int) -> Tensor:
    """The same in bytes, as torchvision resizes them (families2.md's front A)."""
    height, width = image.shape[-2:]
    factor = min(resolution / width, resolution / height)
    size = (int(height * factor), int(width * factor))
    return F.interpolate((image * 255).round(), size, mode="bilinear", antialias=True).round() / 255 * 2 - 1


def smooth(picture: Tensor, size: tuple[int, int] = ODD) -> Tensor:
    return F.interpolate(picture, size, mode="bilinear", antialias=True)


def nearest(picture: Tensor, size: tuple[int, int] = ODD) -> Tensor:
    """By the centres of pixels."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).floor().long() for new, old in zip(size, picture.shape[-2:])
    )
    return picture[..., rows, :][..., columns]


# Marigold, by its consistency models


KINDS = {
    "depth": (MarigoldDepthPipeline, ROWS["marigold-depth-lcm-v1-0"]),
    "normals": (MarigoldNormalsPipeline, ROWS["marigold-normals-lcm-v0-1"]),
}


# ensembles of depths are aligned by a search that makes much of the last bits: tests/test_marigold.py has them
@pytest.mark.parametrize(
    ("kind", "steps", "members"),
    [*((kind, steps, 1) for kind in KINDS for steps in (1, 2, 4)), ("normals", 1, 3), ("normals", 2, 3)],
)
def test_consistency_steps_draw_as_a_generator_draws(kind, steps, members):
    """The initial noise first, then what is added after each step but the last."""
    made, row = KINDS[kind]
    image = tiny.picture(*ODD, seed=5)
    pipeline = official(made, network(row), LCMScheduler.from_config(LCM), prediction_type=kind)
    expected = pipeline(
        image, num_inference_steps=steps, ensemble_size=members, processing_resolution=88, output_type="np",
        generator=torch.Generator().manual_seed(2027), batch_size=members,
    ).prediction  # fmt: skip
    changes = f"steps={steps}", f"ensemble_size={members}", "seed=2027"
    seen = predict(perceiver(row, "", *changes), image, resolution=88, batch_size=members)
    # what short vectors are divided by makes much of the last bits, which passes of several change
    same(seen, expected, TOLERANCE if members == 1 else 10 * TOLERANCE)


@pytest.mark.parametrize("name", ["marigold-depth-v1-0", "marigold-depth-v1-1", "marigold-normals-v0-1"])
def test_what_a_scheduler_leaves_out_runs_as_diffusers_runs_it(name):
    """The first release's file is silent on spacing and on zero SNR."""
    row, image = ROWS[name], tiny.picture(*ODD, seed=6)
    made = MarigoldDepthPipeline if "depth" in name else MarigoldNormalsPipeline
    kind = "depth" if "depth" in name else "normals"
    noise = draw(1, 4, *latent_size(ODD, 120))
    pipeline = official(made, network(row), DDIMScheduler.from_config(row.scheduler), prediction_type=kind)
    options: dict[str, Any] = {"num_inference_steps": 3, "processing_resolution": 120, "latents": noise}
    expected = pipeline(image, output_type="np", **options).prediction
    same(predict(perceiver(row, "", "steps=3"), image, resolution=120, noise=noise), expected)


# Marigold's intrinsic images


@pytest.mark.parametrize(("name", "members"), [("marigold-iid-appearance-v1-1", 1), ("marigold-iid-lighting-v1-1", 3)])
def test_intrinsic_images(name, members):
    """Target by target, and what is stacked in the channels of one."""
    row, image = ROWS[name], tiny.picture(*ODD, seed=8)
    noise = draw(members, row.channels[1], *latent_size(ODD, 72))
    properties = row.index["target_properties"]
    pipeline = official(
        MarigoldIntrinsicsPipeline, network(row), DDIMScheduler.from_config(ZERO), prediction_type="intrinsics",
        target_properties=properties,
    )  # fmt: skip
    options: dict[str, Any] = {"num_inference_steps": 2, "processing_resolution": 72, "latents": noise}
    expected = pipeline(image, ensemble_size=members, output_type="np", **options).prediction
    assert len(expected) == row.channels[1] // 4
    for target, task in enumerate(properties["target_names"]):
        whole = expected[target : target + 1]
        parts = {"roughness": whole[..., :1], "metallic": whole[..., 1:2]} if task == "material" else {}
        for name, wanted in {task: whole, **parts}.items():
            ours = perceiver(row, name, "steps=2", f"ensemble_size={members}")
            same(predict(ours, image, resolution=72, noise=noise), wanted)


# E2E-FT


def test_e2e_ft_is_one_step_of_marigolds_pipeline_from_zeros():
    row, image = ROWS["marigold-e2e-ft-depth"], tiny.picture(*WHOLE, seed=9)
    zeros = torch.zeros(1, 4, WHOLE[0] // 8, WHOLE[1] // 8)
    latent = official_latent(network(row), one_step("v_prediction"), image, zeros)
    grey = decode(tiny.vae(), latent).mean(1, keepdim=True).clip(-1, 1)
    same(predict(perceiver(row), image, resolution=0), (grey - grey.min()) / (grey.max() - grey.min()))


def e2e_picture(row: Published, image: Tensor, resolution: int) -> Tensor:
    """What is decoded of minus the square root of 1 - alpha-bar at 999, times the velocity."""
    z = encode(tiny.vae(), levels(image, resolution))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    noise = float((1 - (1 - betas).prod()) ** 0.5)
    v = network(row)(torch.cat([z, torch.zeros_like(z)], 1), 999, TEXT[:, :2]).sample
    return decode(tiny.vae(), -noise * v)


@pytest.mark.parametrize("resolution", [96, 200])
def test_e2e_ft_depth_is_stretched_before_it_is_resized(resolution):
    row, image = ROWS["marigold-e2e-ft-depth"], tiny.picture(*ODD, seed=10)
    grey = e2e_picture(row, image, resolution).mean(1, keepdim=True).clip(-1, 1)
    stretched = (grey - grey.min()) / (grey.max() - grey.min())
    same(predict(perceiver(row), image, resolution=resolution), smooth(stretched).clip(0, 1))


def test_e2e_ft_normals_are_normalised_twice_and_not_again():
    row, image = ROWS["stable-diffusion-e2e-ft-normals"], tiny.picture(*ODD, seed=12)
    normals = e2e_picture(row, image, 120)
    for _ in range(2):
        normals = normals / (normals.square().sum(1, keepdim=True).sqrt() + 1e-5)
    same(predict(perceiver(row), image, resolution=120), smooth(normals).clip(-1, 1))


# Lotus


def test_lotus_g_is_one_step_of_marigolds_pipeline_with_a_class():
    row, image = ROWS["lotus-normal-g-v1-1"], tiny.picture(*WHOLE, seed=13)
    unet, noise = network(row), draw(1, 4, WHOLE[0] // 8, WHOLE[1] // 8)
    unet.forward = functools.partial(unet.forward, class_labels=LABEL)
    latent = official_latent(unet, one_step("sample"), image, noise)
    picture = (decode(tiny.vae(), latent) / 2 + 0.5).clamp(0, 1)
    same(predict(perceiver(row), image, resolution=0, noise=noise), picture * 2 - 1)
    grey = perceiver(ROWS["lotus-normal-g-v1-1"], "", "codec=late-mean", "task=depth")
    same(predict(grey, image, resolution=0, noise=noise), picture.mean(1, keepdim=True))


def test_a_sample_predictor_of_four_channels_is_marigolds_pipeline_without_its_noise():
    row, image = ROWS["lotus-depth-d-v2-0-disparity"], tiny.picture(*WHOLE, seed=14)
    unet = network(row)
    whole = unet.forward
    unet.forward = lambda x, *given, **named: whole(x[:, :4], *given, class_labels=LABEL, **named)
    # the pipeline asks a UNet of 8 channels for nothing but its count
    unet.register_to_config(in_channels=8)
    latent = official_latent(unet, one_step("sample"), image, draw(1, 4, WHOLE[0] // 8, WHOLE[1] // 8))
    picture = (decode(tiny.vae(), latent) / 2 + 0.5).clamp(0, 1)
    same(predict(perceiver(row), image, resolution=0), picture.mean(1, keepdim=True))


@pytest.mark.parametrize("resolution", [96, 150])
def test_lotus_d_is_resized_by_nearest_channel_by_channel(resolution):
    """Nothing is padded: the VAE passes over what is less than a latent, and the way back stretches the rest."""
    row, image = ROWS["lotus-depth-d-v2-0-disparity"], tiny.picture(*ODD, seed=15)
    z = encode(tiny.vae(), shorter(image, resolution))
    picture = decode(tiny.vae(), network(row)(z, 999, TEXT[:, :2], class_labels=LABEL).sample)
    expected = nearest((picture / 2 + 0.5).clamp(0, 1)).mean(1, keepdim=True)
    same(predict(perceiver(row), image, resolution=resolution), expected)


def test_lotus_g_normals_keep_their_length():
    row, image = ROWS["lotus-normal-g-v1-1"], tiny.picture(*ODD, seed=16)
    z = encode(tiny.vae(), shorter(image, 120))
    noise = draw(*z.shape)
    output = network(row)(torch.cat([z, noise], 1), 999, TEXT[:, :2], class_labels=LABEL).sample
    expected = nearest(decode(tiny.vae(), output).clamp(-1, 1))
    same(predict(perceiver(row), image, resolution=120, noise=noise), expected)


# DepthMaster


@pytest.mark.parametrize("resolution", [96, 200])
def test_depthmaster_at_timestep_one(resolution):
    row, image = ROWS["DepthMaster"], tiny.picture(*ODD, seed=17)
    unet = network(row)
    unet.mid_block.register_forward_hook(lambda module, given, output: unet.fftblock(output))
    latent = unet(encode(tiny.vae(), levels(image, resolution)), 1, TEXT[:, :2]).sample
    grey = (decode(tiny.vae(), latent).mean(1, keepdim=True).clip(-1, 1) + 1) / 2
    seen = predict(perceiver(row), image, resolution=resolution)
    same(seen, smooth(grey).clip(0, 1))
    assert (seen.task, seen.convention.near, seen.convention.encoding) == ("disparity", "high", "square-root")


# RGB-X and its fine-tunes


def noise_first(row: Published, z: Tensor, noise: Tensor, steps: int) -> Tensor:
    """InstructPix2Pix' pipeline, which puts the noise before the picture; without guidance."""
    pipeline = StableDiffusionInstructPix2PixPipeline(
        tiny.vae(), None, None, network(row), DDIMScheduler.from_config(ZERO), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=TEXT, image=z, guidance_scale=0, image_guidance_scale=0, num_inference_steps=steps,
        latents=noise, output_type="latent",
    ).images  # fmt: skip


AOVS = {
    "albedo": lambda picture: picture ** (1 / 2.2),
    "irradiance": lambda picture: picture ** (1 / 2.2),
    "normal": lambda picture: picture,
    "roughness": lambda picture: picture[:, :1],
    "metallic": lambda picture: picture[:, :1],
}


@pytest.mark.parametrize("task", AOVS)
def test_rgb_x_reads_linear_light(task):
    row, image = ROWS["rgb-to-x"], tiny.picture(*ODD, seed=18)
    size = tuple(length * 150 // max(ODD) // 8 * 8 for length in ODD)
    linear = F.interpolate(image**2.2, size, mode="bilinear", antialias=True) * 2 - 1
    z = encode(tiny.vae(), linear)
    noise = draw(*z.shape)
    picture = (decode(tiny.vae(), noise_first(row, z, noise, 3)) / 2 + 0.5).clamp(0, 1)
    seen = predict(perceiver(row, task, "steps=3"), image, resolution=150, noise=noise)
    # near 0 the power 1/2.2 makes much of the last bits
    same(raised(seen, task), raised_tensor(smooth(AOVS[task](picture)), task))


def raised(seen: PerceptionMap, task: str) -> PerceptionMap:
    seen.values.copy_(raised_tensor(seen.values, task))
    return seen


def raised_tensor(values: Tensor, task: str) -> Tensor:
    """Back in linear light."""
    return values**2.2 if task in ("albedo", "irradiance") else values


def test_ouroboros_is_one_step_at_the_pictures_own_size():
    row, image = ROWS["Ouroboros"], tiny.picture(*ODD, seed=19)
    size = tuple(length // 8 * 8 for length in ODD)
    z = encode(tiny.vae(), F.interpolate(image**2.2, size, mode="bilinear", antialias=True) * 2 - 1)
    noise = draw(*z.shape)
    picture = (decode(tiny.vae(), noise_first(row, z, noise, 1)) / 2 + 0.5).clamp(0, 1)
    same(predict(perceiver(row, "normal"), image, noise=noise), smooth(picture))


def test_olbedo_reads_pictures_as_they_are():
    row, image = ROWS["olbedo-rgbx"], tiny.picture(*ODD, seed=20)
    z = encode(tiny.vae(), levels(image, 120))
    noise = draw(*z.shape)
    picture = (decode(tiny.vae(), noise_first(row, z, noise, 4)).clip(-1, 1) + 1) / 2
    same(predict(perceiver(row), image, resolution=120, noise=noise), smooth(picture))


# Intrinsic-LoRA, whose adapter has been merged here


INTRINSIC = Published("intrinsic-lora", "intrinsic-lora", ("depth", "normal", "albedo", "shading"))
READ = {
    "depth": lambda picture: ((picture - picture.min()) / (picture.max() - picture.min())).mean(1, keepdim=True),
    "normal": lambda picture: picture.clamp(-1, 1) / picture.clamp(-1, 1).norm(dim=1, keepdim=True),
    "albedo": lambda picture: picture.clamp(-1, 1) * 0.5 + 0.5,
    "shading": lambda picture: picture.clamp(-1, 1) * 0.5 + 0.5,
}


@pytest.mark.parametrize("task", READ)
def test_intrinsic_lora_gives_the_sample_at_999(task):
    """The shorter edge is brought to the resolution, as Pillow does it."""
    size = (128, 184)
    image = tiny.picture(*size, seed=21)
    small = Image.fromarray(tiny.expected_levels(image)).resize((92, 64), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.asarray(small).copy()).movedim(-1, 0)[None].float() / 255 * 2 - 1
    picture = decode(tiny.vae(), network(INTRINSIC)(encode(tiny.vae(), x), 999, TEXT).sample)
    expected = F.interpolate(READ[task](picture), size, mode="bilinear")
    expected = F.normalize(expected, dim=1) if task == "normal" else expected
    same(predict(perceiver(INTRINSIC, task), image, resolution=64), expected)


# All of them


@pytest.mark.parametrize("row", tiny_families.one_of_each([*PUBLISHED, INTRINSIC]).values(), ids=lambda row: row.family)
def test_a_batch_is_its_images_one_by_one(row):
    """Of odd sizes; every image starts from the same noise."""
    ours = perceiver(row, row.tasks[0])
    ours = perceiver(row, row.tasks[0], "steps=2") if ours.recipe.steps > 1 else ours
    images = torch.cat([tiny.picture(51, 77, seed=seed) for seed in (22, 23)])
    together = predict(ours, images, resolution=72, batch_size=2).values
    assert together.shape[:3] == (2, 51, 77)
    for index in range(2):
        alone = predict(ours, images[index : index + 1], resolution=72).values
        assert (together[index : index + 1] - alone).abs().max() <= 10 * TOLERANCE
    assert (together[0] - together[1]).abs().max() > 1e-3


ALIGNED = ("depth", "disparity")
"""By that search."""
ENSEMBLES = [row for row in PUBLISHED if row.run.get("noise") != "zeros" and row.channels[0] > 4]
UNALIGNED = tiny_families.one_of_each(row for row in ENSEMBLES if row.tasks[0] not in ALIGNED)


@pytest.mark.parametrize("row", UNALIGNED.values(), ids=UNALIGNED)
def test_members_of_an_ensemble_are_the_same_in_any_batches(row):
    ours = perceiver(row, row.tasks[0], "steps=1", "ensemble_size=3", f"seed={SEED}")
    image = tiny.picture(51, 77, seed=24)
    seen = [predict(ours, image, resolution=72, batch_size=size) for size in (1, 2, 3)]
    for other in seen[1:]:
        assert (seen[0].values - other.values).abs().max() <= 10 * TOLERANCE
    assert seen[0].uncertainty is not None
    assert seen[0].uncertainty.max() > 0
