"""Extras: maps beside a picture that stays as it is, raw values beside each map, cut-outs with the alpha of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image

from diffusion_perception.core.display.matting import foreground_of
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer.host import open_perceiver


def levels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


OWN = ("depth: own", "matte: own", "normal: own")


@pytest.fixture
def extras(forge):
    import diffusion_perception.webui.extras as extras

    return extras


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(levels(40, 56, 3)).convert(mode)


def seen(extras, image: Image.Image, *maps: str, raw: str = "none", cut_out: bool = False):
    """What Extras hold afterwards."""
    from modules.scripts_postprocessing import PostprocessedImage

    pp = PostprocessedImage(image)
    extras.PerceptionExtras().process(pp, enable=True, maps=list(maps), raw=raw, cut_out=cut_out)
    return pp


def save(extras, pp, folder, ending: str = ".png") -> list[str]:
    """As a host does it: each picture under a name with its tags, and a callback for each."""
    from modules.script_callbacks import ImageSaveParams

    for one in (pp, *pp.extra_images):
        name = "-".join(["0001", *one.nametags])
        image = one.image.convert("RGB") if ending == ".jpg" else one.image
        image.save(folder / f"{name}{ending}")
        extras.write_raw_beside(
            ImageSaveParams(one.image, None, str(folder / f"{name}{ending}"), {"parameters": "a cat"})
        )
    return sorted(path.name for path in folder.iterdir())


def test_the_page_offers_every_map_and_takes_none_at_first(extras):
    page = extras.PerceptionExtras().ui()
    assert list(page) == ["enable", "maps", "raw", "cut_out"]
    assert {*OWN, "depth: demo"} <= {*page["maps"].given["choices"]}
    assert page["maps"].given["value"] == []
    assert page["enable"].value is False


@pytest.mark.parametrize("given", [{}, {"enable": None}, {"enable": False, "maps": ["depth: own"]}, {"enable": True}])
def test_programs_that_say_nothing_get_nothing(extras, given):
    from modules.scripts_postprocessing import PostprocessedImage

    pp = PostprocessedImage(picture())
    extras.PerceptionExtras().process(pp, **given)
    assert (pp.extra_images, pp.info) == ([], {})


def test_maps_come_beside_the_picture_which_stays_as_it_is(extras, out):
    image = picture("RGBA")
    before = np.asarray(image).copy()
    pp = seen(extras, image, "depth: own", "depth: demo")
    assert pp.image is image
    assert np.array_equal(np.asarray(image), before)
    assert [one.nametags for one in pp.extra_images] == [["depth-own"], ["depth"]]
    assert all(one.disable_processing and one.image.size == image.size for one in pp.extra_images)
    assert save(extras, pp, out) == ["0001-depth-own.png", "0001-depth.png", "0001.png"]


@pytest.mark.parametrize(("raw", "ending"), [("npy", ".npy"), ("exr", ".exr"), ("exr, half precision", ".exr")])
def test_raw_values_lie_beside_each_map(extras, out, raw, ending):
    image = picture()
    save(extras, seen(extras, image, "depth: own", raw=raw), out)
    file = out / f"0001-depth-own{ending}"
    values = np.load(file) if raw == "npy" else OpenEXR.File(str(file)).channels()["Y"].pixels
    assert values.shape == (40, 56)
    shown = np.asarray(Image.open(out / "0001-depth-own.png"))[..., 0] / 255
    # the picture: near, which is low, is white
    assert np.abs((values.max() - values) / np.ptp(values) - shown).max() < 0.005


def test_raw_values_are_those_of_predict(extras, forge, out):
    image = picture()
    save(extras, seen(extras, image, "normal: own", raw="npy"), out)
    (own,) = [choice for label, choice in extras.offered().items() if label == "normal: own"]
    perceiver = open_perceiver(forge.LIBRARY.resolve(own.file), task="normal", device="cpu")
    tensor = torch.from_numpy(np.asarray(image)).float().movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        expected = predict(perceiver, tensor).values[0].numpy()
    assert np.abs(np.load(out / "0001-normal-own.npy") - expected).max() < 1e-5


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_cut_outs_alpha_is_ours_whatever_the_host_did_to_it(extras, forge, out, ending):
    image = picture()
    pp = seen(extras, image, "matte: own", "depth: own", cut_out=True, raw="npy")
    assert [one.nametags for one in pp.extra_images] == [["matte-own"], ["matte-own-cut-out"], ["depth-own"]]
    cut = pp.extra_images[1].image
    cut.putalpha(255)  # as a host does that hides its infotext there
    assert f"0001-matte-own-cut-out{ending}" in save(extras, pp, out, ending)
    kept = Image.open(out / "0001-matte-own-cut-out.png")
    assert kept.info["parameters"] == "a cat"
    alpha = torch.from_numpy(np.load(out / "0001-matte-own.npy"))[None].clamp(0, 1)
    assert np.abs(np.asarray(kept)[..., 3] / 255 - alpha[0].numpy()).max() <= 0.503 / 255
    colours = foreground_of(torch.from_numpy(np.asarray(image)).float()[None] / 255, alpha)[0].numpy()
    assert np.abs(np.asarray(kept)[..., :3] / 255 - colours).max() <= 0.503 / 255


def test_a_map_that_is_gone_is_told_in_a_sentence(extras):
    with pytest.raises(ValueError, match="There is no map 'depth: gone': reload the page"):
        seen(extras, picture(), "depth: gone")


def test_pictures_of_others_are_left_alone(extras, out):
    from modules.script_callbacks import ImageSaveParams

    extras.write_raw_beside(ImageSaveParams(picture(), None, str(out / "x.png"), None))
    assert list(out.iterdir()) == []
