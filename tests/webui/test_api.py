"""Tests of webui/api.py and webui/settings.py: pictures in base64 alone, the host's credentials, the user's files."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer.host import open_perceiver


@pytest.fixture
def api(forge):
    import diffusion_perception.webui.api as api

    return api


def levels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def encoded(picture: np.ndarray, form: str = "PNG") -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


class App:
    def __init__(self) -> None:
        self.routes = {}

    def add_api_route(self, path, endpoint, methods, dependencies) -> None:
        self.routes[path] = SimpleNamespace(endpoint=endpoint, methods=methods, dependencies=dependencies)


def test_routes_are_offered_where_the_hosts_own_are_and_behind_its_credentials(api, monkeypatch):
    from modules import shared

    open_, closed, none = App(), App(), App()
    api.offer_api(open_)
    monkeypatch.setattr(shared.cmd_opts, "api_auth", "me:secret")
    api.offer_api(closed)
    monkeypatch.setattr(shared.cmd_opts, "api", False)
    api.offer_api(none)
    paths = {"/perception/v1/maps": ["GET"], "/perception/v1/perceive": ["POST"]}
    assert {path: route.methods for path, route in open_.routes.items()} == paths
    assert {path: route.methods for path, route in closed.routes.items()} == paths
    assert none.routes == {}
    assert all(route.dependencies == [] for route in open_.routes.values())
    for route in closed.routes.values():
        assert [one.dependency for one in route.dependencies] == [api.check_credentials]


@pytest.mark.parametrize(
    ("name", "password", "passes"),
    [
        ("me", "secret", True),
        ("you", "other:one", True),
        ("me", "Secret", False),
        ("me", "", False),
        ("you", "secret", False),
    ],
)
def test_credentials(api, monkeypatch, name, password, passes):
    from fastapi import HTTPException
    from fastapi.security import HTTPBasicCredentials
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "api_auth", "me:secret, you:other:one")
    given = HTTPBasicCredentials(name, password)
    if passes:
        api.check_credentials(given)
        return
    with pytest.raises(HTTPException) as refused:
        api.check_credentials(given)
    assert refused.value.status_code == 401


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_picture_is_answered_by_its_map(api, tmp_path, form):
    text = encoded(levels(), form)
    picture = decoded(text)
    answer = api.perceive_picture(f"data:image/png;base64,{text}", "depth: own", "npy")
    assert answer.keys() == {"image", "raw"}
    own = open_perceiver(tmp_path / "perception" / "own.safetensors", task="depth", device="cpu")
    with torch.no_grad():
        expected = predict(own, torch.from_numpy(picture.copy()).float().movedim(-1, 0)[None] / 255).values[0, ..., 0]
    values = np.load(io.BytesIO(base64.b64decode(answer["raw"])))
    assert np.abs(values - expected.numpy()).max() < 1e-5
    assert decoded(answer["image"]).shape == (40, 56, 3)


def refusal(api, *given) -> str:
    from fastapi import HTTPException

    with pytest.raises(HTTPException) as refused:
        api.perceive_picture(*given)
    assert refused.value.status_code == 422
    return refused.value.detail


@pytest.mark.parametrize(
    "text",
    ["", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd", "etc/passwd0", "data:image/png;base64,AAAA"],
)
def test_paths_urls_and_what_is_no_picture_are_refused(api, text):
    assert refusal(api, text, "depth: own", "none") == (
        "image is no picture in base64: send a PNG, JPEG or WebP so, not a path or URL."
    )


def test_what_is_not_listed_is_told(api):
    listed = api.maps()
    assert {"depth: own", "normal: own", "depth: demo"} <= {*listed["maps"]}
    assert refusal(api, encoded(levels()), "depth: ../own", "none").startswith(
        "There is no map 'depth: ../own': ask for"
    )
    assert refusal(api, encoded(levels()), "depth: own", "tiff") == (
        "Raw values do not come as 'tiff': ask for one of none, npy, exr, exr, half precision."
    )
    assert refusal(api, encoded(np.zeros((8, 8, 3), np.uint8)), "depth: own", "none").startswith(
        "The image is 8x8 pixels"
    )


def test_a_failure_frees_the_queue(api):
    from modules import call_queue

    refusal(api, encoded(np.zeros((8, 8, 3), np.uint8)), "depth: own", "none")
    assert not call_queue.queue_lock.locked()


def test_the_settings_choose_what_answers_for_a_task(api, tmp_path):
    from modules import shared
    from modules_forge.shared import supported_preprocessors

    from diffusion_perception.webui.preprocessors import offer
    from diffusion_perception.webui.settings import FIRST, key_of, offer_settings

    offer_settings()
    offer()
    info = shared.opts.data_labels[key_of("depth")]
    assert (info.default, info.section) == (FIRST, ("perception", "Diffusion Perception"))
    assert {FIRST, "depth: own", "depth: demo"} <= {*info.component_args["choices"]}
    picture = levels()
    asked = {name: supported_preprocessors[f"depth_perception{name}"](picture, 512) for name in (" own", " demo")}
    assert not np.array_equal(asked[" own"], asked[" demo"])
    by_settings = supported_preprocessors["depth_perception"]
    # the user's own before the demo
    assert np.array_equal(by_settings(picture, 512), asked[" own"])
    shared.opts.data[key_of("depth")] = "depth: demo"
    assert np.array_equal(by_settings(picture, 512), asked[" demo"])
    assert np.array_equal(decoded(api.perceive_picture(encoded(picture), "depth", "none")["image"]), asked[" demo"])
    # what is gone, or of another task, is not taken
    for label in ("depth: gone", "normal: own"):
        shared.opts.data[key_of("depth")] = label
        assert np.array_equal(by_settings(picture, 512), asked[" own"])


def test_one_more_folder_is_looked_into(api, forge, tmp_path):
    from modules import shared

    from diffusion_perception.webui.settings import FOLDER

    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "perception" / "own.safetensors").rename(other / "moved.safetensors")
    assert "moved.safetensors" not in forge.LIBRARY.choices()
    shared.opts.data[FOLDER] = str(other)
    assert "moved.safetensors" in forge.LIBRARY.choices()
    shared.opts.data[FOLDER] = str(tmp_path / "gone")
    assert "moved.safetensors" not in forge.LIBRARY.choices()
