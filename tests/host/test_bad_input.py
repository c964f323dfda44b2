"""Whatever a person feeds the nodes, one clear sentence comes back and the server serves on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from comfyui_server import GraphRejected, Interrupted, NodeFailed
from graph import Graph, perceive_file
from networks import write_own_file
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import context, unet


@pytest.fixture(scope="module")
def models(comfyui):
    """The folder of perception models, with one good checkpoint in it."""
    folder = comfyui.models / "perception"
    write_own_file(folder / "good.safetensors", "depth")
    return folder


@pytest.fixture(scope="module")
def picture(comfyui):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)).save(comfyui.input / "fine.png")
    return "fine.png"


@pytest.fixture(autouse=True)
def serves_on(comfyui, models, picture):
    """After each fault the same server perceives a picture."""
    yield
    graph, saved = perceive_file("good.safetensors", picture, "after")
    assert np.isfinite(np.load(comfyui.submit(graph).files(saved.name)[0])).all()


def sentence(comfyui, graph: Graph) -> str:
    """What the person is told."""
    with pytest.raises(NodeFailed) as told:
        comfyui.submit(graph)
    words = str(told.value)
    assert "\n" not in words, f"more than one line: {words}"
    assert told.value.node_type.startswith("DiffusionPerception")
    return words


class Malicious:
    def __reduce__(self):
        import os

        return os.system, ("touch malicious_pickle_ran",)


def write_truncated(folder):
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])


def write_renamed_picture(folder):
    Image.new("RGB", (64, 64)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "renamed.safetensors")


def write_malicious(folder):
    (folder / "malicious" / "unet").mkdir(parents=True)
    (folder / "malicious" / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Malicious()))


def write_sdxl(folder):
    tensors = unet().state_dict() | {"add_embedding.linear_1.weight": torch.zeros(64, 64)}
    save_file(tensors, folder / "sdxl.safetensors")


def write_controlnet(folder):
    tensors = unet().state_dict() | {"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 3, 3, 3)}
    save_file(tensors, folder / "controlnet.safetensors")


def write_unknown(folder):
    save_file(unet().state_dict(), folder / "unknown.safetensors")


def write_incomplete(folder):
    tensors = {name: tensor for name, tensor in unet().state_dict().items() if "up_blocks.2" not in name}
    (folder / "torn").mkdir()
    save_file(tensors, folder / "torn" / "unet_depth_v2.safetensors")
    save_file({"empty": context()}, folder / "torn" / "empty_text_embed.safetensors")


def write_empty_folder(folder):
    (folder / "hollow").mkdir()


def write_broken(folder):
    """A whole file, one of whose weights is no number."""
    file = folder / "broken.safetensors"
    with safe_open(folder / "good.safetensors", "pt") as held:
        metadata, tensors = held.metadata(), {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    tensors["unet.mid_block.resnets.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(tensors, file, metadata)


def write_gguf(folder):
    (folder / "gguf.safetensors").write_bytes(b"GGUF" + bytes(100))


CHECKPOINTS = [
    (write_broken, "broken.safetensors", ["gives no numbers: its weights hold NaN; get the file again"]),
    (write_gguf, "gguf.safetensors", ["quantised (GGUF)", "fp16"]),
    (write_truncated, "truncated.safetensors", ["not a whole .safetensors", "download"]),
    (write_renamed_picture, "renamed.safetensors", ["not a whole .safetensors"]),
    (write_malicious, "malicious", ["something other than tensors", ".safetensors"]),
    (write_sdxl, "sdxl.safetensors", ["SDXL", "SD 1.x and SD 2.x"]),
    (write_controlnet, "controlnet.safetensors", ["is a ControlNet", "Load ControlNet Model"]),
    (write_unknown, "unknown.safetensors", ["family", "task"]),
    (write_incomplete, "torn/unet_depth_v2.safetensors", ["not whole", "weights", "output_blocks"]),
    (write_empty_folder, "hollow", ["no UNet", "unet/"]),
    (None, "../../input/fine.png", ["leads out of models/perception"]),
    (None, "/etc/passwd", ["leads out of models/perception"]),
    (None, "missing.safetensors", ["There is no", "models/perception"]),
    (None, "Marigold-Depth-v1-1", ["huggingface.co/prs-eth/marigold-depth-v1-1 into models/perception/marigold-d"]),
]


@pytest.mark.parametrize(("write", "name", "words"), CHECKPOINTS, ids=[name for _, name, _ in CHECKPOINTS])
def test_a_bad_checkpoint_is_refused_in_one_sentence(comfyui, models, picture, write, name, words):
    if write is not None:
        write(models)
    graph, _ = perceive_file(name, picture, "bad")
    told = sentence(comfyui, graph)
    assert all(word in told for word in words), told
    assert not list(comfyui.base.rglob("malicious_pickle_ran"))


def test_a_misspelt_override_names_the_field_that_was_meant(comfyui, models, picture):
    told = sentence(comfyui, perceive_file("good.safetensors", picture, "bad", overrides="stepz=4")[0])
    assert "stepz" in told
    assert "'steps'" in told


def test_another_task_than_trained_is_refused(comfyui, models, picture):
    told = sentence(comfyui, perceive_file("good.safetensors", picture, "bad", task="normal")[0])
    assert "trained for depth, not for normal" in told


def of_image(class_type: str, **inputs) -> Graph:
    """Perceive an image that a stock node makes."""
    graph = Graph()
    graph.save_map(graph.perceive(graph.load_model("good.safetensors"), graph.add(class_type, **inputs)), "bad")
    return graph


def test_an_image_of_one_pixel_is_refused(comfyui, models):
    told = sentence(comfyui, of_image("EmptyImage", width=1, height=1, batch_size=1, color=0))
    assert "1x1" in told
    assert "16x16" in told


def bad_tensor(kind):
    """Perceive, called as the executor calls it, on a tensor that no stock node makes."""
    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    images = {
        "nan": torch.full((1, 32, 32, 3), torch.nan),
        "empty batch": torch.zeros(0, 32, 32, 3),
        "one channel": torch.rand(1, 32, 32, 1),
        "half precision": torch.rand(1, 32, 32, 3).half(),
    }
    perception = LoadModel.execute("good.safetensors", "auto", "as trained", "").result[0]
    seen = Perceive.execute(perception, images[kind], -1, 1).result[0]
    return {"values": seen.values}


@pytest.fixture
def good_inside(inside_host):
    write_own_file(inside_host.base / "models" / "perception" / "good.safetensors", "depth")
    return inside_host


@pytest.mark.parametrize(("kind", "word"), [("nan", "NaN"), ("empty batch", "at least one")])
def test_pixels_that_mean_nothing_are_refused(good_inside, kind, word):
    from inside_host import FailedInside

    with pytest.raises(FailedInside, match=word):
        good_inside(bad_tensor, kind=kind)


@pytest.mark.parametrize("kind", ["one channel", "half precision"])
def test_unusual_pixels_are_perceived(good_inside, kind):
    assert np.isfinite(good_inside(bad_tensor, kind=kind)["values"]).all()


def test_the_latent_of_another_kind_of_model_is_refused(comfyui, models):
    graph = Graph()
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    seen = graph.add(
        "DiffusionPerceptionPerceiveLatent",
        perception=graph.load_model("good.safetensors"),
        latent=latent,
        batch_size=1,
    )
    graph.save_map(seen, "bad")
    told = sentence(comfyui, graph)
    assert "(1, 16, 8, 8)" in told
    assert "Stable Diffusion 1.x or 2.x" in told


def test_a_checkpoint_without_a_vae_asks_for_one(comfyui, models, picture):
    write_own_file(models / "bare.safetensors", "depth", with_vae=False)
    told = sentence(comfyui, perceive_file("bare.safetensors", picture, "bad")[0])
    assert "connect a Stable Diffusion 1.x or 2.x VAE" in told


def test_a_run_can_be_cancelled(comfyui, models, picture):
    graph, _ = perceive_file(
        "good.safetensors",
        picture,
        "cancelled",
        overrides="paradigm=deterministic beta_start=0.1 beta_end=0.2 steps=1000",
    )
    run = comfyui.start(graph)
    perceive = next(name for name, node in graph.items() if node["class_type"] == "DiffusionPerceptionPerceive")
    comfyui.wait_for_event(run, "progress", perceive)
    comfyui.interrupt()
    with pytest.raises(Interrupted):
        comfyui.wait(run)


def save_on_a_full_disk():
    """SaveMap where the system lets no file grow beyond a few kilobytes."""
    import resource
    import signal
    from pathlib import Path

    import folder_paths
    import torch

    from diffusion_perception.core.perception_map import Convention, PerceptionMap
    from diffusion_perception.nodes.save import SaveMap

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    map = PerceptionMap("depth", torch.rand(1, 512, 512, 1), Convention(near="low"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    told = ""
    try:
        SaveMap.execute(map, "full/map", "npy", "values 0..1")
    except (ValueError, OSError) as error:
        told = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = [str(path) for path in Path(folder_paths.get_output_directory(), "full").rglob("*") if path.is_file()]
    return {"told": told, "left": left}


def test_a_full_disk_is_said_and_leaves_no_half_written_file(inside_host):
    seen = inside_host(save_on_a_full_disk)
    assert seen["told"]
    assert "\n" not in seen["told"]
    assert seen["left"] == []


@pytest.mark.parametrize("prefix", ["../escaped", "/tmp/escaped"])
def test_maps_are_saved_in_the_output_folder_only(comfyui, models, picture, prefix):
    graph, _ = perceive_file("good.safetensors", picture, prefix)
    assert "leads out of the output folder" in sentence(comfyui, graph)


def test_a_resolution_outside_its_range_is_refused_before_the_run(comfyui, models, picture):
    with pytest.raises(GraphRejected, match="resolution"):
        comfyui.submit(perceive_file("good.safetensors", picture, "bad", resolution=-2)[0])
