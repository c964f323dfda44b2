"""What a person may count on in a real ComfyUI: sizes, repeatability, batches, and a host left as it was."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_host import Host
from graph import Graph, perceive_file
from networks import write_narrow_sd2, write_own_file
from PIL import Image

TASKS = ("depth", "normal", "mask")


@pytest.fixture(scope="module")
def model(comfyui):
    """A checkpoint of three tasks."""
    return write_own_file(comfyui.models / "perception" / "three tasks.safetensors", *TASKS).name


@pytest.fixture(scope="module")
def photo(comfyui):
    """A picture of noise and gradients, of odd size."""
    return save_picture(comfyui, "photo.png", 75, 53)


def save_picture(comfyui, name: str, width: int, height: int, seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    pixels = (ramp + random.integers(0, 55, (height, width, 3))).astype(np.uint8)
    Image.fromarray(pixels).save(comfyui.input / name)
    return name


def values(comfyui, *arguments, **more) -> np.ndarray:
    """The raw values of a picture by a model, through the files that SaveMap writes."""
    graph, saved = perceive_file(*arguments, **more)
    (file,) = comfyui.submit(graph).files(saved.name)
    return np.load(file)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 300), (300, 17), (16, 700), (129, 64), (75, 53)])
@pytest.mark.parametrize("resolution", [-1, 0, 200])
def test_the_output_has_the_size_of_the_input(comfyui, model, width, height, resolution):
    picture = save_picture(comfyui, f"{width}x{height}.png", width, height)
    seen = values(comfyui, model, picture, "size", task="depth", resolution=resolution)
    assert seen.shape == (height, width)
    assert seen.dtype == np.float32
    assert np.isfinite(seen).all()


def test_two_runs_are_bit_identical(comfyui, model, photo):
    first = values(comfyui, model, photo, "again", task="depth")
    comfyui.free()
    second = values(comfyui, model, photo, "again", task="depth")
    assert np.array_equal(first, second)


def test_an_unchanged_graph_executes_no_node_again(comfyui, model, photo):
    graph, _ = perceive_file(model, photo, "unchanged", "normal")
    comfyui.submit(graph)
    assert comfyui.submit(graph).executed == []


def test_tasks_of_one_file_share_one_network(comfyui, model, photo):
    comfyui.free()
    graph = Graph()
    image = graph.load_image(photo)
    for task in TASKS:
        graph.save_map(graph.perceive(graph.load_model(model, task), image), f"shared/{task}")
    before = comfyui.log.count("model weight dtype")
    comfyui.submit(graph)
    assert comfyui.log.count("model weight dtype") == before + 1


def five(comfyui) -> list[str]:
    return [save_picture(comfyui, f"batch{seed}.png", 75, 53, seed) for seed in range(5)]


def batched(names: list[str], model: str, batch_size: int) -> tuple[Graph, str]:
    """All pictures in one batch through one Perceive."""
    graph = Graph()
    first, *rest = [graph.load_image(name) for name in names]
    for other in rest:
        first = graph.add("ImageBatch", image1=first, image2=other)
    seen = graph.perceive(graph.load_model(model, "depth"), first, batch_size=batch_size)
    return graph, graph.save_map(seen, f"batch{batch_size}").name


def test_a_batch_of_five_equals_five_single_images(comfyui, model):
    names = five(comfyui)
    singles = [values(comfyui, model, name, "single", task="depth") for name in names]
    graph, saved = batched(names, model, 1)
    one_by_one = [np.load(file) for file in comfyui.submit(graph).files(saved)]
    assert len(one_by_one) == 5
    assert all(np.array_equal(single, one) for single, one in zip(singles, one_by_one))
    graph, saved = batched(names, model, 3)
    in_chunks = [np.load(file) for file in comfyui.submit(graph).files(saved)]
    assert max(np.abs(single - chunk).max() for single, chunk in zip(singles, in_chunks)) <= 1e-3


def test_progress_is_told_and_ends_at_its_maximum(comfyui, host, model):
    comfyui.free()
    graph, _ = batched(five(comfyui), model, 2)
    node = next(name for name, node in graph.items() if node["class_type"] == "DiffusionPerceptionPerceive")
    moved = comfyui.submit(graph).progress(node)
    steps = 3 * 3  # three chunks: encode, denoise, decode
    told_at_least = {1, steps} if throttles_progress(host) else set(range(1, steps + 1))
    assert told_at_least <= {value for value, maximum in moved if maximum == steps}
    assert moved[-1] == (steps, steps)
    assert moved == sorted(moved)


def throttles_progress(host: Host) -> bool:
    """Whether this ComfyUI leaves out messages of progress that follow too soon; the first and the last always come."""
    return "PROGRESS_THROTTLE" in (host.comfyui / "comfy" / "utils.py").read_text(encoding="utf-8")


def test_a_latent_is_perceived_like_the_image_that_was_encoded(comfyui, model):
    picture = save_picture(comfyui, "aligned.png", 64, 40)
    graph = Graph()
    loaded, image = graph.load_model(model, "depth"), graph.load_image(picture)
    latent = graph.add("VAEEncode", pixels=image, vae=loaded[1])
    of_latent = graph.add("DiffusionPerceptionPerceiveLatent", perception=loaded, latent=latent, batch_size=1)
    of_image = graph.perceive(loaded, image, resolution=0)
    saved = [graph.save_map(seen, "latent").name for seen in (of_latent, of_image)]
    result = comfyui.submit(graph)
    from_latent, from_image = (np.load(result.files(name)[0]) for name in saved)
    assert from_latent.shape == (40, 64)
    # ComfyUI's own VAE Encode works on channels-last memory, where PyTorch's group norm loses a digit
    assert np.abs(from_latent - from_image).max() <= 5e-4


def test_a_connected_vae_serves_a_checkpoint_without_one(comfyui, model, photo):
    bare = write_own_file(comfyui.models / "perception" / "bare.safetensors", "depth", with_vae=False).name
    graph = Graph()
    vae = graph.load_model(model, "depth")[1]
    saved = graph.save_map(graph.perceive(graph.load_model(bare), graph.load_image(photo), vae=vae), "connected").name
    (file,) = comfyui.submit(graph).files(saved)
    assert np.array_equal(np.load(file), values(comfyui, model, photo, "own", task="depth"))


def test_gray_and_transparent_pictures_are_perceived_by_their_colours(comfyui, model, photo):
    with Image.open(comfyui.input / photo) as image:
        image.convert("RGBA").save(comfyui.input / "opaque.png")
    graph = Graph()
    image = graph.load_image(photo)
    mask = graph.add("ImageToMask", image=image, channel="red")
    alpha = graph.add("JoinImageWithAlpha", image=image, alpha=mask)
    loaded = graph.load_model(model, "depth")
    saved = [graph.save_map(graph.perceive(loaded, seen), "channels").name for seen in (image, alpha)]
    result = comfyui.submit(graph)
    plain, transparent = (np.load(result.files(name)[0]) for name in saved)
    assert np.array_equal(plain, transparent)


def sampled(comfyui, seed: int = 1) -> tuple[Graph, str]:
    """A stock Stable Diffusion graph: three steps of KSampler, the latent saved."""
    graph = Graph()
    model = graph.add("UNETLoader", unet_name="narrow_sd2.safetensors", weight_dtype="default")
    text = graph.add("LotusConditioning")
    empty = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    latent = graph.add(
        "KSampler", model=model, positive=text, negative=text, latent_image=empty, seed=seed, steps=3, cfg=4.0,
        sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    return graph, graph.add("SaveLatent", samples=latent, filename_prefix="latents/sampled").name


def test_the_hosts_own_sampling_is_bit_identical_before_and_after_perceiving(comfyui, model, photo):
    from safetensors.numpy import load_file

    write_narrow_sd2(comfyui.models / "diffusion_models" / "narrow_sd2.safetensors")

    def sample() -> np.ndarray:
        # another seed in between, so that the sampler runs again on the model that stayed loaded
        comfyui.submit(sampled(comfyui, seed=2)[0])
        graph, saved = sampled(comfyui)
        (file,) = comfyui.submit(graph).files(saved)
        return load_file(file)["latent_tensor"]

    before = sample()
    assert np.isfinite(before).all()
    values(comfyui, model, photo, "between", task="normal", overrides="seed=5")
    assert np.array_equal(before, sample())
