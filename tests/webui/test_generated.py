"""Tests of webui/generated.py: maps of what was sampled come behind the pictures, and never in their way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_perception.core.display.picture import ready
from diffusion_perception.core.pipeline import predict, predict_latent
from diffusion_perception.trainer.host import open_perceiver


class Generation:
    """As much of one as scripts are handed."""

    def __init__(self, folder: Path, scale: float = 0.18215, saves: bool = True) -> None:
        vae = SimpleNamespace(scaling_factor=scale)
        self.sd_model = SimpleNamespace(forge_objects=SimpleNamespace(vae=SimpleNamespace(first_stage_model=vae)))
        self.outpath_samples, self.seeds, self.prompts = str(folder), [11, 12], ["a cat", "a dog"]
        self.comments, self.saves = [], saves

    def save_samples(self) -> bool:
        return self.saves

    def comment(self, text: str) -> None:
        self.comments.append(text)


@pytest.fixture
def script(forge):
    from modules import script_callbacks

    import diffusion_perception.webui.extras as extras
    from diffusion_perception.webui.generated import PerceptionGenerated

    script_callbacks.on_image_saved(extras.write_raw_beside)
    return PerceptionGenerated()


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0)).half()


class Decoded(list):
    already_decoded = True


def sampled(script, p, samples, *chosen):
    """What the host shows behind its pictures."""
    from modules.scripts import PostSampleArgs

    ps = PostSampleArgs(samples)
    script.post_sample(p, ps, *chosen)
    assert ps.samples is samples
    processed = SimpleNamespace(images=["picture"])
    script.postprocess(p, processed, *chosen)
    assert processed.images[0] == "picture"
    return processed.images[1:]


def test_the_page_offers_every_map_and_is_closed_at_first(script):
    from modules.scripts import AlwaysVisible

    enable, maps, raw = script.ui(is_img2img=False)
    assert script.show(is_img2img=True) is AlwaysVisible
    assert enable.value is False
    assert {"depth: own", "matte: own", "depth: demo"} <= {*maps.given["choices"]}
    assert raw.given["value"] == "none"


@pytest.mark.parametrize("chosen", [(), (False, ["depth: own"], "none"), (True, [], "none"), (True, None, None)])
def test_who_asks_for_nothing_gets_nothing(script, out, chosen):
    p = Generation(out)
    assert sampled(script, p, latents(), *chosen) == []
    assert (p.comments, list(out.iterdir())) == ([], [])


def test_a_map_is_that_of_the_latent_and_lies_beside_the_pictures(script, out, tmp_path):
    p = Generation(out)
    shown = sampled(script, p, latents(), True, ["depth: own", "normal: own"], "npy")
    assert len(shown) == 4
    files = ["00000-11-depth-own", "00001-12-depth-own", "00002-11-normal-own", "00003-12-normal-own"]
    assert sorted(file.name for file in out.iterdir()) == sorted(
        f"{file}.{end}" for file in files for end in ("npy", "png")
    )
    own = open_perceiver(tmp_path / "perception" / "own.safetensors", task="depth", device="cpu")
    for number in range(2):
        with torch.no_grad():
            map = predict_latent(own, latents()[number : number + 1].float())
        assert np.abs(np.load(out / f"{files[number]}.npy") - map.values[0, ..., 0].numpy()).max() < 1e-5
        expected = ready(map)[0][0].numpy() * 255
        assert np.abs(np.asarray(shown[number]) - expected).max() <= 0.51
        assert np.array_equal(np.asarray(Image.open(out / f"{files[number]}.png")), np.asarray(shown[number]))


def test_what_the_host_has_decoded_already_is_perceived_as_a_picture(script, out, tmp_path):
    pictures = Decoded(torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    shown = sampled(script, Generation(out, saves=False), pictures, True, ["depth: own"], "npy")
    own = open_perceiver(tmp_path / "perception" / "own.safetensors", task="depth", device="cpu")
    for one, picture in zip(shown, pictures):
        with torch.no_grad():
            expected = ready(predict(own, (picture[None] + 1) / 2))[0][0].numpy() * 255
        assert np.abs(np.asarray(one) - expected).max() <= 0.51
    assert list(out.iterdir()) == []


def test_what_cannot_be_is_told_below_the_pictures(script, out):
    p = Generation(out, scale=0.13025)  # SDXL's
    assert sampled(script, p, latents(), True, ["depth: own", "depth: gone"], "none") == []
    assert p.comments == [
        "Diffusion Perception, depth: own: The loaded model does not make the latents of Stable Diffusion 1.x and 2.x, "
        "which the map is of: perceive the finished picture on the Extras page.",
        "Diffusion Perception, depth: gone: There is no map 'depth: gone': reload the page and choose one that is.",
    ]
