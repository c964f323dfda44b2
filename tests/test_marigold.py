"""Marigold's depth and normals equal diffusers' own pipelines, noise for noise and step for step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.perception_map import PerceptionMap
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer.host import load_perceiver

TOLERANCE = 1e-4
SIZE = (101, 139)
RELEASES: dict[str, dict[str, Any]] = {
    "v1-0": {"timestep_spacing": "leading", "rescale_betas_zero_snr": False},
    "v1-0 trailing": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": False},
    "v1-1": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "v1-1 ending in one": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "set_alpha_to_one": True},
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Makes a repository, once for each of its settings, and gives the pipeline and the folder."""
    made: dict[str, tuple[Any, Path]] = {}

    def make(kind: str, release: str = "v1-1", **config: Any) -> tuple[Any, Path]:
        key = json.dumps([kind, release, config])
        if key not in made:
            pipeline = tiny.marigold(kind, config, **RELEASES[release])
            made[key] = pipeline, tiny.write_marigold(tmp_path_factory.mktemp("hub") / f"marigold-{kind}", pipeline)
        return made[key]

    return make


def ours(folder: Path, image: Tensor, overrides: list[str], **options: Any) -> PerceptionMap:
    checkpoint = open_checkpoint(folder, "marigold")  # named, for a schedule that E2E-FT has too
    return predict(load_perceiver(replace(checkpoint, recipe=checkpoint.recipe.override(overrides))), image, **options)


def theirs(pipeline: Any, image: Tensor, **options: Any) -> Any:
    return pipeline(image, output_type="np", output_uncertainty=options.get("ensemble_size", 1) > 1, **options)


def worst(seen: PerceptionMap, expected: Any) -> float:
    """Largest absolute difference of the maps, and of their uncertainties."""
    assert seen.values.shape == expected.prediction.shape
    assert expected.prediction.std() > 1e-2
    differences = [np.abs(seen.values.numpy() - expected.prediction).max()]
    if expected.uncertainty is not None:
        assert seen.uncertainty is not None
        differences.append(np.abs(seen.uncertainty.numpy() - expected.uncertainty[..., 0]).max())
    return float(max(differences))


def noise(members: int, resolution: int = 128, seed: int = 5) -> Tensor:
    """Of the latent of an image of SIZE."""
    height = -(-(SIZE[0] * resolution // max(SIZE)) // 8)
    return torch.randn((members, 4, height, resolution // 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_one_map_from_given_noise(repository, kind, release, steps):
    pipeline, folder = repository(kind, release)
    image = tiny.picture(*SIZE)
    expected = theirs(pipeline, image, num_inference_steps=steps, processing_resolution=128, latents=noise(1))
    seen = ours(folder, image, [f"steps={steps}"], resolution=128, noise=noise(1))
    assert worst(seen, expected) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("release", ["v1-0", "v1-1"])
@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_an_ensemble_of_three_from_given_noise_and_its_uncertainty(repository, kind, release, steps):
    pipeline, folder = repository(kind, release)
    image = tiny.picture(*SIZE)
    expected = theirs(
        pipeline, image, num_inference_steps=steps, processing_resolution=128, latents=noise(3), ensemble_size=3
    )
    seen = ours(folder, image, [f"steps={steps}", "ensemble_size=3"], resolution=128, noise=noise(3))
    assert worst(seen, expected) <= TOLERANCE


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_a_seed_draws_the_noise_that_a_generator_draws(repository, kind, ensemble):
    pipeline, folder = repository(kind)
    image = tiny.picture(*SIZE)
    generator = torch.Generator().manual_seed(2024)
    expected = theirs(
        pipeline, image, num_inference_steps=2, processing_resolution=128, generator=generator, ensemble_size=ensemble
    )
    seen = ours(folder, image, ["steps=2", f"ensemble_size={ensemble}", "seed=2024"], resolution=128)
    assert worst(seen, expected) <= TOLERANCE


@pytest.mark.parametrize("full", [True, False])
def test_normals_over_the_whole_sphere_and_over_the_half_that_faces_the_camera(repository, full):
    pipeline, folder = repository("normals", use_full_z_range=full)
    image = tiny.picture(*SIZE)
    expected = theirs(pipeline, image, num_inference_steps=1, processing_resolution=128, latents=noise(1))
    seen = ours(folder, image, ["steps=1"], resolution=128, noise=noise(1))
    assert worst(seen, expected) <= TOLERANCE
    assert (seen.values[..., 2].min() >= 0) is not full
    assert seen.convention.unit
    assert seen.convention.axes == ("right", "up", "back")


@pytest.mark.parametrize(("height", "width"), [(64, 64), (101, 139), (137, 90), (70, 200)])
@pytest.mark.parametrize("resolution", [0, 96, 192])
def test_images_of_any_size_are_resized_and_padded_alike(repository, height, width, resolution):
    pipeline, folder = repository("depth")
    image = tiny.picture(height, width)
    expected = theirs(
        pipeline, image, num_inference_steps=1, processing_resolution=resolution,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    seen = ours(folder, image, ["steps=1", "seed=0"], resolution=resolution)
    assert worst(seen, expected) <= TOLERANCE


def test_steps_and_resolution_are_those_of_the_repository_unless_told_otherwise(repository):
    pipeline, folder = repository("depth", default_denoising_steps=2, default_processing_resolution=120)
    image = tiny.picture(*SIZE)
    expected = theirs(pipeline, image, generator=torch.Generator().manual_seed(0))
    assert worst(ours(folder, image, []), expected) <= TOLERANCE


# The text context


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> tuple[Path, Tensor]:
    """text_encoder/ and tokenizer/ as transformers saves them, and its embedding of the empty prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("text")
    vocabulary = {"a": 0, "b": 1, "c</w>": 2, "<|endoftext|>": 3, "<|startoftext|>": 4}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    config = CLIPTextConfig(
        vocab_size=5, hidden_size=tiny.WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=4, eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPTextModel(config).eval()
    model.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    tokens = tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    assert tokens.tolist() == [[4, 3]]
    with torch.no_grad():
        return folder, model(tokens)[0]


@pytest.fixture
def bare(repository, tmp_path) -> Path:
    """A repository without any text context."""
    tiny.marigold().save_pretrained(tmp_path / "marigold-depth")
    return tmp_path / "marigold-depth"


def add_encoder(repository: Path, text: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        (repository / part).symlink_to(text / part, target_is_directory=True)


def test_the_text_encoder_beside_it_makes_the_context(bare, encoder):
    text, expected = encoder
    add_encoder(bare, text)
    tokens = load_perceiver(open_checkpoint(bare)).context.tokens
    assert tokens.shape == (1, 2, tiny.WIDTH)
    assert torch.equal(tokens, expected)


def test_a_text_encoder_in_half_precision_is_computed_in_single(bare, encoder, tmp_path):
    from transformers import CLIPTextModel

    text, _ = encoder
    half = CLIPTextModel.from_pretrained(text / "text_encoder").half()
    half.save_pretrained(tmp_path / "half" / "text_encoder")
    (tmp_path / "half" / "tokenizer").symlink_to(text / "tokenizer", target_is_directory=True)
    add_encoder(bare, tmp_path / "half")
    expected = half.float()(torch.tensor([[4, 3]]))[0]
    assert torch.equal(load_perceiver(open_checkpoint(bare)).context.tokens, expected)


def test_without_any_text_context_it_says_what_to_put_where(bare):
    with pytest.raises(CheckpointError) as error:
        load_perceiver(open_checkpoint(bare))
    assert str(error.value) == (
        "marigold-depth/unet comes without a text context: put empty_text_embed.safetensors or a text_encoder/ folder "
        "beside it, or give --context FILE."
    )


def test_a_damaged_text_encoder_is_told_in_one_sentence(bare):
    folder = bare / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        CheckpointError, match="marigold-depth/text_encoder/model.safetensors is not a whole .safetensors"
    ):
        load_perceiver(open_checkpoint(bare))


def lacking(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {other: tensor for other, tensor in tensors.items() if other != name}


SPOILT = {
    "missing": lambda tensors, name: lacking(tensors, name),
    "misshapen": lambda tensors, name: {**tensors, name: tensors[name][:, :5].contiguous()},
    "unknown": lambda tensors, name: {**tensors, "logit_scale": torch.ones(1)},
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_text_encoder_that_is_not_whole_is_told_in_one_sentence_and_never_made_up(bare, encoder, tmp_path, spoil):
    text, _ = encoder
    shutil.copytree(text, tmp_path / "spoilt")
    file = tmp_path / "spoilt" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.fc1.weight"))
    save_file(spoil(tensors, name), file, {"format": "pt"})
    add_encoder(bare, tmp_path / "spoilt")
    with pytest.raises(CheckpointError, match=r"text_encoder/model.safetensors does not fit its CLIP") as told:
        load_perceiver(open_checkpoint(bare))
    assert "\n" not in str(told.value)


def test_the_numbers_of_positions_that_old_text_encoders_hold_are_passed_over(bare, encoder, tmp_path):
    text, expected = encoder
    shutil.copytree(text, tmp_path / "old")
    file = tmp_path / "old" / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
    save_file({**tensors, "text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    add_encoder(bare, tmp_path / "old")
    assert torch.equal(load_perceiver(open_checkpoint(bare)).context.tokens, expected)


@pytest.mark.parametrize("config", ["[]", "{", '{"hidden_size": "wide"}', '{"num_attention_heads": 0}'])
def test_a_config_that_describes_no_text_encoder_is_told_in_one_sentence(bare, encoder, tmp_path, config):
    text, _ = encoder
    shutil.copytree(text, tmp_path / "odd")
    (tmp_path / "odd" / "text_encoder" / "config.json").write_text(config)
    add_encoder(bare, tmp_path / "odd")
    with pytest.raises(CheckpointError, match=r"text_encoder/config.json "):
        load_perceiver(open_checkpoint(bare))


def test_a_text_encoder_of_another_model_is_refused(bare, encoder, tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    text, _ = encoder
    config = CLIPTextConfig.from_pretrained(text / "text_encoder")
    config.hidden_size = 32
    CLIPTextModel(config).save_pretrained(tmp_path / "narrow" / "text_encoder")
    (tmp_path / "narrow" / "tokenizer").symlink_to(text / "tokenizer", target_is_directory=True)
    add_encoder(bare, tmp_path / "narrow")
    with pytest.raises(
        CheckpointError, match=r"marigold-depth/text_encoder holds a text context of shape \(1, 2, 32\)"
    ):
        load_perceiver(open_checkpoint(bare))
