"""The host owns the networks: it may offload, evict and reload them, and the values stay the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import write_own_file
from PIL import Image


@pytest.fixture
def model(inside_host) -> str:
    return write_own_file(inside_host.base / "models" / "perception" / "depth.safetensors", "depth").name


def perceive_under_pressure(model, pressure):
    """Perceive on a device that the host takes for a small GPU: another name for the CPU, with memory of its own."""
    import comfy.model_management as management
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    image = torch.rand(2, 48, 80, 3, generator=torch.Generator().manual_seed(0))
    device = torch.device("cpu", 0)
    management.get_torch_device = lambda: device
    management.vae_device = lambda: device
    perception, vae = LoadModel.execute(model, "auto", "as trained", "").result
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.is_device_cpu = lambda other: other == torch.device("cpu")
    unet = perception.backbone.patcher
    size = unet.model_size()
    free = {"plenty": 64 * 1024**3, "half": management.minimum_inference_memory() + size // 2, "evict": 64 * 1024**2}[
        pressure
    ]
    management.get_free_memory = lambda dev=None, torch_free_too=False: (free, free) if torch_free_too else free
    management.get_total_memory = management.get_free_memory
    load = management.LoadedModel.model_load

    def load_half(self, memory=0, *arguments, **named):
        # older hosts load 128 MiB of any model, which is all of one this small
        return load(self, min(memory, size // 2) if self.model is unet else memory, *arguments, **named)

    if pressure == "half":
        management.LoadedModel.model_load = load_half

    def casting():
        return [getattr(layer, "comfy_cast_weights", None) for layer in vae.first_stage_model.modules()]

    resident, cast = [], casting()
    run = perception.backbone.run

    def watched(*arguments):
        output = run(*arguments)
        resident.append([unet.loaded_size() / size, vae.patcher.loaded_size() / vae.patcher.model_size()])
        return output

    perception.backbone.run = watched
    seen = Perceive.execute(perception, image, -1, 1).result[0]
    weights = {name: tensor.clone() for name, tensor in unet.model.state_dict().items()}
    management.unload_all_models()
    same = all(torch.equal(weights[name], tensor) for name, tensor in unet.model.state_dict().items())
    return {
        "values": seen.values, "resident": resident, "loaded": len(management.current_loaded_models),
        "same": same, "cast": casting() == cast, "hooks": sum(len(m._forward_pre_hooks) for m in unet.model.modules()),
    }  # fmt: skip


def test_a_half_resident_or_evicted_unet_predicts_the_same(inside_host, model):
    plenty = inside_host(perceive_under_pressure, model=model, pressure="plenty")
    half = inside_host(perceive_under_pressure, model=model, pressure="half")
    evicted = inside_host(perceive_under_pressure, model=model, pressure="evict")
    assert all(unet == 1 for unet, _ in plenty["resident"])
    assert all(0 < unet < 1 for unet, _ in half["resident"]), half["resident"]
    assert all(vae == 0 for _, vae in evicted["resident"]), evicted["resident"]
    assert np.array_equal(plenty["values"], half["values"])
    assert np.array_equal(plenty["values"], evicted["values"])


def test_nothing_stays_loaded_or_changed_once_the_host_evicts(inside_host, model):
    seen = inside_host(perceive_under_pressure, model=model, pressure="plenty")
    assert seen["loaded"] == 0
    assert seen["same"]
    assert seen["cast"]
    assert seen["hooks"] == 0


def forget_and_count(model):
    """Load, perceive, drop the outputs as the executor's cache does; count what is left of the networks."""
    import gc
    import weakref

    import comfy.model_management as management
    import torch

    from diffusion_perception.nodes import host
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    perception, vae = LoadModel.execute(model, "auto", "as trained", "").result
    watched = [weakref.ref(perception.backbone.patcher.model), weakref.ref(vae.first_stage_model)]
    Perceive.execute(perception, torch.rand(1, 32, 32, 3), -1, 1)
    del perception, vae
    management.unload_all_models()
    gc.collect()
    return {"alive": sum(ref() is not None for ref in watched), "kept": len(host.SHARED)}


def test_nothing_is_held_once_the_hosts_cache_forgets_the_model(inside_host, model):
    assert inside_host(forget_and_count, model=model) == {"alive": 0, "kept": 0}


def decode_in_half_precision(model):
    """The picture of a smooth latent by a VAE that the host keeps in bfloat16, by ours and by the host's own decode."""
    import torch

    from diffusion_perception.nodes.host import HostAutoencoder
    from diffusion_perception.nodes.load import LoadModel

    _, vae = LoadModel.execute(model, "auto", "as trained", "").result
    exact = HostAutoencoder(vae)
    ramp = torch.linspace(-1, 1, 32).expand(1, 4, 16, 32).contiguous()
    reference = exact.decode(ramp)
    vae.first_stage_model.to(torch.bfloat16)
    vae.vae_dtype = torch.bfloat16
    ours = HostAutoencoder(vae).decode(ramp)
    hosts = vae.first_stage_model.decode((ramp / 0.18215).to(torch.bfloat16)).float()
    return {
        "ours": (ours - reference).abs().max().item(), "hosts": (hosts - reference).abs().max().item(),
        "levels": len(ours.unique()), "hosts_levels": len(hosts.unique()),
    }  # fmt: skip


def test_a_half_precision_vae_computes_in_single_precision_for_us(inside_host, model):
    seen = inside_host(decode_in_half_precision, model=model)
    assert seen["ours"] < seen["hosts"]
    assert seen["levels"] > 4 * seen["hosts_levels"]


def perceive_short_of_memory(model, failing, picture):
    """Perceive where the host's own error of a full device comes, once or always, from encode, decode or both; and once
    more with tiles whose group norms are their own."""
    from contextlib import nullcontext

    import comfy.model_management as management
    import torch

    from diffusion_perception.core import vae_tiles
    from diffusion_perception.nodes import host
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    perception, vae = LoadModel.execute(model, "auto", "depth", "").result
    network, image = vae.first_stage_model, torch.from_numpy(picture)[None] / 255
    whole = Perceive.execute(perception, image, 0, 1).result[0].values
    host.SEEN.held.clear()
    sizes = []

    def short(name, limit):
        compute = getattr(network, name)

        def attempt(given):
            sizes.append([name, given.shape[-1]])
            if given.shape[-2] * given.shape[-1] > limit:
                raise management.OOM_EXCEPTION("Allocation on device")
            return compute(given)

        setattr(network, name, attempt)

    for name, limit in failing.items():
        short(name, limit)
    try:
        output = Perceive.execute(perception, image, 0, 1)
    except management.OOM_EXCEPTION as error:
        return {"told": str(error), "sizes": sizes}
    said = (output.ui or {}).get("text", ("",))[0]
    host.SEEN.held.clear()
    vae_tiles.norms_as_in = lambda network, whole: nullcontext()
    alone = Perceive.execute(perception, image, 0, 1).result[0].values
    return {"whole": whole, "tiled": output.result[0].values, "alone": alone, "said": said, "sizes": sizes}


@pytest.fixture(scope="module")
def room():
    """(320, 640, 3) in 0..255."""
    file = Path(__file__).parents[2] / "workflows" / "pictures" / "living-room.jpg"
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB").resize((640, 320)), np.float32)


@pytest.mark.parametrize(
    ("failing", "words", "apart"),
    [
        ({"decode": 64 * 40}, ["decode 640x320 pixels", "tiles of 512"], 0.06),
        ({"encode": 512 * 320}, ["encode 640x320 pixels", "tiles of 512"], 0.06),
        ({"decode": 32**2, "encode": 256**2}, ["encode 640x320", "decode 640x320", "tiles of 256"], 0.4),
    ],
    ids=["decode", "encode", "both, and twice"],
)
def test_a_full_device_is_met_with_tiles_and_the_node_says_so(inside_host, room, failing, words, apart):
    seen = inside_host(perceive_short_of_memory, model="starter.safetensors", failing=failing, picture=room)
    assert all(word in seen["said"] for word in words), seen["said"]
    assert ("tiles of 512" in seen["said"]) == ("tiles of 512" in words)  # what was tried in vain is not what was done
    assert seen["tiled"].shape == seen["whole"].shape
    assert np.isfinite(seen["tiled"]).all()
    # in shares of the map's own contrast
    off = {way: np.abs(seen[way] - seen["whole"]).mean() / seen["whole"].std() for way in ("tiled", "alone")}
    assert 0 < off["tiled"] < apart
    assert off["tiled"] < off["alone"]
    assert all(size <= 640 for _, size in seen["sizes"])


def test_a_device_too_full_for_any_tile_is_said_in_a_sentence(inside_host, room, model):
    seen = inside_host(perceive_short_of_memory, model=model, failing={"decode": 64}, picture=room)
    assert "not enough memory to decode 640x320 pixels, not even in tiles of 256" in seen["told"]
    assert "lower resolution" in seen["told"]


def encodes(model):
    """How often the VAE has encoded after one picture, the same again, another one, and the first once more."""
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    perception, vae = LoadModel.execute(model, "auto", "as trained", "").result
    pictures, counted = torch.rand(2, 1, 32, 48, 3), []
    vae.first_stage_model.encoder.register_forward_hook(lambda *given: counted.append(1))
    maps, counts = [], []
    for which in (0, 0, 1, 0):
        maps.append(Perceive.execute(perception, pictures[which].clone(), 0, 1).result[0].values)
        counts.append(len(counted))
    return {"counts": counts, "first": maps[0], "again": maps[1], "other": maps[2], "last": maps[3]}


def test_one_picture_is_encoded_once_for_all_nodes(inside_host, model):
    seen = inside_host(encodes, model=model)
    assert seen["counts"] == [1, 1, 2, 2]
    assert np.array_equal(seen["first"], seen["again"])
    assert np.array_equal(seen["first"], seen["last"])
    assert not np.array_equal(seen["first"], seen["other"])


def perceive_in_both_precisions(model):
    """The same image with the VAE in single precision and as a host with half-precision VAEs runs it."""
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    perception, vae = LoadModel.execute(model, "auto", "as trained", "").result
    used = []
    # decode: what was encoded once is not encoded again
    decode = vae.first_stage_model.decode
    vae.first_stage_model.decode = lambda given: (used.append(str(given.dtype)), decode(given))[1]
    image = torch.rand(1, 48, 80, 3, generator=torch.Generator().manual_seed(0))
    found = {
        name: Perceive.execute(perception, image, -1, 1, None, choice).result[0].values
        for name, choice in {"full": "full", "half": "as the host runs it", "again": "full"}.items()
    }
    return {**found, "used": used}


def test_the_vae_runs_in_half_precision_only_where_a_person_chooses_it(inside_host, model):
    seen = inside_host(perceive_in_both_precisions, model=model, host_arguments=("--cpu", "--bf16-vae"))
    assert seen["used"] == ["torch.float32", "torch.bfloat16", "torch.float32"]
    assert np.array_equal(seen["full"], seen["again"])
    assert 0 < np.abs(seen["full"] - seen["half"]).mean() < 0.1
