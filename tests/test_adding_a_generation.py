"""A generation of Stable Diffusion is a row of core.generations, and nothing else: one is added here and used."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_adapters import KINDS, random_adapter, saved, spelled
from tiny_light import write_taesd
from torch import Tensor

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapters import merge
from diffusion_perception.core.checkpoints.bases import open_adapted
from diffusion_perception.core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.checkpoints.tensors import CheckpointError
from diffusion_perception.core.checkpoints.tiny_vae_file import open_light
from diffusion_perception.core.generations import GENERATIONS, Generation, HeadRule, LatentSpace
from diffusion_perception.core.halves import Halves
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.text import encode_empty
from diffusion_perception.trainer.train import prepare

WIDTH, FACTOR = 96, 0.5
ROW = Generation(
    "imagined",
    "Imagined 3",
    modelspec="imagined-v3",
    context_dim=WIDTH,
    linear_projection=True,
    heads=HeadRule(width=32),
    padding=5,
    latents=LatentSpace("Imagined 3.x", FACTOR),
)


@pytest.fixture(autouse=True)
def row(monkeypatch) -> None:
    monkeypatch.setitem(GENERATIONS, ROW.name, ROW)


def text(width: int = WIDTH) -> Tensor:
    return tiny.context(width=width)


def write_shared(path: Path) -> Path:
    """One file without a config, as people share them, and the empty prompt beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {**tiny.ldm(tiny.unet(context=WIDTH)), **tiny.ldm_vae(tiny.vae())}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    tiny.write_context(path.parent, text())
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return write_shared(tmp_path_factory.mktemp("shared") / "imagined-3.safetensors")


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, "genpercept", "depth")


def predicted(tmp_path: Path, *arguments: object) -> np.ndarray:
    """What the command line makes of one picture."""
    image, out = tiny.save_picture(tmp_path / "photo.png", 64, 96), tmp_path / "out"
    words = ("predict", *arguments, "--resolution", 0, "--device", "cpu", "--out", out, image)
    assert main([str(word) for word in words]) == 0
    return np.load(out / "photo.npy")


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def config_of(path: Path, part: str) -> dict:
    return json.loads(header(path)[f"diffusion_perception.{part}"])


def test_a_file_is_recognised_by_the_width_of_its_text_and_read_by_the_row_s_rules(shared):
    checkpoint = opened(shared)
    assert checkpoint.recipe.base == checkpoint.architecture.base == "imagined"
    assert checkpoint.architecture.heads == (1, 2, 2, 2)  # 32 wide, in levels of 32 and 64 channels
    assert checkpoint.vae_architecture is not None
    assert checkpoint.vae_architecture.scaling_factor == FACTOR


def test_it_predicts_what_its_networks_give_with_the_row_s_heads_and_scaling(shared, tmp_path):
    vae = copy.deepcopy(tiny.vae())
    vae.register_to_config(scaling_factor=FACTOR)
    networks = DiffusersBackbone(tiny.unet(context=WIDTH)), Context(text()), DiffusersAutoencoder(vae)
    perceiver = Perceiver(opened(shared).recipe, *networks)
    expected = predict(perceiver, tiny.picture(64, 96), resolution=0).values[0, ..., 0].numpy()
    found = predicted(tmp_path, "--model", shared, "--family", "genpercept", "--task", "depth")
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_light_halves_without_a_vae_take_the_row_s_scaling():
    assert Halves(None, base="imagined").scaling_factor == FACTOR


@pytest.mark.parametrize(("network", "kind"), [("full", ""), ("lora", "/lora")])
def test_it_is_trained_and_what_is_written_bears_the_row_s_names(shared, tmp_path, network, kind):
    runs.write_balls(tmp_path / "train", 4)
    base = {"architecture": "", "vae": "", "path": str(shared)}
    settings = {"base": base, "network": {"unet": network}, "steps": 2}
    fit(prepare(runs.config(tmp_path, **settings)))
    written = tmp_path / "run" / "last.safetensors"
    assert header(written)["modelspec.architecture"] == f"imagined-v3{kind}"
    assert config_of(written, "recipe")[0]["base"] == "imagined"
    if network == "full":
        assert config_of(written, "vae")["scaling_factor"] == FACTOR
    models = ("--model", written) if network == "full" else ("--base", shared, "--adapter", written)
    assert np.isfinite(predicted(tmp_path, *models)).all()


def test_it_is_exported_under_the_row_s_names_and_predicts_as_before(shared, tmp_path):
    out = tmp_path / "mine.safetensors"
    words = ("export", "--model", shared, "--family", "genpercept", "--task", "depth", "--dtype", "fp32", "--out", out)
    assert main([str(word) for word in words]) == 0
    assert header(out)["modelspec.architecture"] == "imagined-v3"
    assert config_of(out, "vae")["scaling_factor"] == FACTOR
    before = predicted(tmp_path, "--model", shared, "--family", "genpercept", "--task", "depth")
    np.testing.assert_array_equal(predicted(tmp_path, "--model", out), before)


def write_adapter(path: Path, width: int) -> Path:
    return saved(path, spelled(random_adapter(tiny.unet(context=width), KINDS["attention"]), "kohya"))


def write_unet(folder: Path, width: int) -> Path:
    tiny.write(folder / "unet", tiny.unet(context=width))
    return folder


@pytest.mark.parametrize(
    ("made_for", "put_on", "sentence"),
    [
        (WIDTH, 1024, r"is for Imagined 3 \(96-wide text\), the loaded model is SD2.1 \(1024-wide text\)"),
        (768, WIDTH, r"is for SD1.5 \(768-wide text\), the loaded model is Imagined 3 \(96-wide text\)"),
    ],
)
def test_an_adapter_of_another_generation_is_refused_by_both_titles(tmp_path, made_for, put_on, sentence):
    adapter = write_adapter(tmp_path / "lora.safetensors", made_for)
    base = open_networks(write_unet(tmp_path / "base", put_on))
    with pytest.raises(CheckpointError, match=sentence):
        open_adapted(base, adapter, "genpercept", "depth")


def test_an_adapter_of_it_says_so_and_runs_on_it(tmp_path):
    base = open_networks(write_unet(tmp_path / "base", WIDTH))
    file = write_adapter(tmp_path / "lora.safetensors", WIDTH)
    checkpoint, adapter = open_adapted(base, file, "genpercept", "depth")
    assert adapter.base == checkpoint.recipe.base == "imagined"
    assert merge(adapter, base.unet.load()).keys() == base.unet.shapes.keys()


def test_light_halves_of_stable_diffusion_are_not_for_its_latents(tmp_path):
    taesd = write_taesd(tmp_path / "taesd_decoder.safetensors", "decoder")
    open_light(taesd, "decoder", Recipe("depth", base="sd15"))
    sentence = "for latents of Stable Diffusion 1.x and 2.x; depth perceives those of Imagined 3.x: take the VAE's own"
    with pytest.raises(CheckpointError, match=sentence):
        open_light(taesd, "decoder", Recipe("depth", base="imagined"))


def test_its_prompts_are_padded_by_the_row_s_token(tmp_path):
    """A causal transformer of no blocks gives each token its own embedding, normalised."""
    embeddings = torch.randn(49408, 4, generator=torch.Generator().manual_seed(0))
    weights = {
        "embeddings.token_embedding.weight": embeddings,
        "embeddings.position_embedding.weight": torch.zeros(77, 4),
        "final_layer_norm.weight": torch.ones(4),
        "final_layer_norm.bias": torch.zeros(4),
    }
    path = tmp_path / "file.safetensors"
    save_file({f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in weights.items()}, path)
    for base, padding in (("imagined", 5), ("sd15", 49407), ("custom", 49407)):
        found = encode_empty(path, 4, base)
        expected = torch.nn.functional.layer_norm(embeddings[[49406, 49407, padding, padding]], (4,))
        assert found is not None
        torch.testing.assert_close(found[0], expected)
