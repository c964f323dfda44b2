"""LoRA runs: no weight of the base moves, and the file they write makes the same network together with the base."""

from __future__ import annotations

import pytest
import runs
import tiny
import torch
from safetensors.torch import load_file

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapter_file import read_adapter
from diffusion_perception.core.checkpoints.adapters import merge
from diffusion_perception.core.checkpoints.attachment import Adapted
from diffusion_perception.core.checkpoints.bases import open_adapted
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer import host
from diffusion_perception.trainer.config import ConfigError
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.runs.written import unet_weights
from diffusion_perception.trainer.train import prepare

SIGNAL = {"beta_start": 0.00085, "beta_end": 0.012, "steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    runs.write_balls(folder / "train", 8)
    tiny.write(folder / "base" / "unet", tiny.unet())
    runs.write_vae(folder / "base" / "vae")
    tiny.write_context(folder / "base")
    return folder


def trained(root, out, **settings):
    """A finished LoRA run on the base in root."""
    network = {"unet": "lora", "rank": 3, "alpha": 6.0, **settings.pop("network", {})}
    base = {"architecture": "", "vae": "", "path": str(root / "base")}
    run = prepare(
        runs.config(root, out=str(out), base=base, network=network, optimiser={"lr": 1e-2}, steps=3, **settings)
    )
    fit(run)
    return run


def test_no_weight_of_the_base_moves(root, tmp_path):
    run = trained(root, tmp_path, tasks=["depth", "normal"])
    now, before = unet_weights(run.learner.unet), tiny.unet().state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in before)
    assert all("lora_" in name or name == "contexts" for name in run.learner.learning())


def test_the_file_holds_the_adapter_the_contexts_and_how_to_run_it(root, tmp_path):
    trained(root, tmp_path, tasks=["depth", "normal"], licence="CC0-1.0")
    adapter = read_adapter(tmp_path / "last.safetensors")
    assert [recipe.id for recipe in adapter.recipes] == ["depth", "normal"]
    assert (adapter.rank, adapter.alpha, adapter.licence) == (3, 6.0, "CC0-1.0")
    assert adapter.recipes[1].axes == ("right", "up", "back")
    names = load_file(tmp_path / "last.safetensors")
    assert {name for name in names if name.startswith("context.")} == {"context.depth", "context.normal"}
    assert adapter.notes(adapter.fingerprint) == []


LAYERS = {
    "attention": {},
    "convolutions": {"lora_layers": ["to_q", "conv1", "conv_shortcut", "proj_in", "ff.net.2"]},
    "with whole layers": {"whole": ["conv_in", "conv_norm_out"]},
    "of another rank": {"rank": 1, "alpha": 0.0},
}


@pytest.mark.parametrize("network", LAYERS.values(), ids=LAYERS)
def test_base_and_adapter_are_the_trained_network(root, tmp_path, network):
    """Beside the weights or merged into them, within 1e-5."""
    run = trained(root, tmp_path, network=network)
    base = open_networks(root / "base")
    checkpoint, adapter = open_adapted(base, tmp_path / "last.safetensors")
    shown, timestep = torch.randn(2, 4, 32, 32), torch.tensor([1, 1])
    context = Context(checkpoint.context.tokens)
    with torch.no_grad():
        live = host.DiffusersBackbone(run.learner.unet.eval())(shown, timestep, context.expand(2))
        plain = host.load_unet(base.unet, base.architecture)
        beside = Adapted(host.DiffusersBackbone(plain), adapter)(shown, timestep, context.expand(2))
        untouched = host.DiffusersBackbone(plain)(shown, timestep, context.expand(2))
        plain.load_state_dict(merge(adapter, plain.state_dict()))
        merged = host.DiffusersBackbone(plain)(shown, timestep, context.expand(2))
    assert (live - untouched).abs().max() > 1e-3
    assert (live - merged).abs().max() < 1e-5
    assert (live - beside).abs().max() < 1e-5


def test_a_widened_input_travels_in_the_adapter(root, tmp_path):
    """The stochastic paradigm shows the network two latents: conv_in grows, and is trained whole."""
    recipe = {"paradigm": "stochastic", **SIGNAL}
    run = trained(root, tmp_path, network={"whole": ["conv_in"]}, recipe=recipe)
    checkpoint, adapter = open_adapted(open_networks(root / "base"), tmp_path / "last.safetensors")
    assert adapter.in_channels == 8
    image = tiny.picture(192, 192)
    with torch.no_grad():
        live = predict(run.learner.eval().perceiver("depth"), image, resolution=0).values
        loaded = predict(host.load_perceiver(checkpoint, adapter), image, resolution=0).values
    assert (live - loaded).abs().max() < 1e-5


def test_lora_on_two_latents_needs_its_input_to_learn(root, tmp_path):
    with pytest.raises(ConfigError, match=r'network\.whole = \["conv_in"\]'):
        trained(root, tmp_path, recipe={"paradigm": "stochastic", **SIGNAL})


@pytest.mark.parametrize(
    "network", [{"lora_layers": ["to_k", "to_kk"]}, {"whole": ["conv_inn"]}], ids=["lora", "whole"]
)
def test_a_layer_that_does_not_exist_is_named(root, tmp_path, network):
    with pytest.raises(ConfigError, match="no layer 'to_kk'|no layer 'conv_inn'"):
        trained(root, tmp_path, network=network)


def test_a_killed_lora_run_goes_on_with_what_it_had_learnt(root, tmp_path):
    whole = trained(root, tmp_path / "whole", network={"whole": ["conv_out"]})
    part = trained(root, tmp_path / "part", network={"whole": ["conv_out"]}, save_every=1)
    content = torch.load(tmp_path / "part" / "state.pt", weights_only=True)
    assert content["step"] == 3
    again = trained(root, tmp_path / "part", network={"whole": ["conv_out"]}, save_every=1)
    for one, other in ((whole, part), (part, again)):
        learnt = zip(one.learner.learning().values(), other.learner.learning().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in learnt)
    files = [load_file(tmp_path / name / "last.safetensors") for name in ("whole", "part")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
