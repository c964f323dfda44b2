"""Tests in a real WebUI of the Forge family, where WEBUI_DIR names one: what it offers, and what its networks answer.

WEBUI_PYTHON is the Python of its environment, the one in its venv/ if left out.
"""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import tiny
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_perception.core.display.picture import ready_picture
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.webui.work import controlnet_picture

ROOT = Path(__file__).absolute().parents[2]
FOLDER = Path(os.environ.get("WEBUI_DIR", ""))
if not (FOLDER / "modules_forge").is_dir():
    pytest.skip("WEBUI_DIR names no WebUI: nothing here was tried in a real Forge", allow_module_level=True)

PYTHON = os.environ.get("WEBUI_PYTHON") or str(FOLDER / "venv" / "bin" / "python")
IS_NEO = (FOLDER / "requirements.txt").is_file()
ARGUMENTS = [
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--nowebui", "--api", "--server-name", "127.0.0.1"),
    *(("--cpu", "--skip-python-version-check") if IS_NEO else ("--always-cpu",)),
]
STARTED_IN = 300
TASKS = {"depth": "depth", "normal": "normal", "mask": "mask", "albedo": "albedo"}
"""The demo's preprocessors and their tasks."""
RECIPES = [Recipe(task="depth", base="custom"), Recipe(task="normal", base="custom", axes=("left", "up", "back"))]


PROBE = """
from fastapi import Body
from modules import call_queue, postprocessing, script_callbacks, scripts

def extras(folder: str = Body(), out: str = Body(), given: dict = Body()):
    with call_queue.queue_lock:
        off = {"upscale_enabled": False, "upscale_by": 1.0, "max_side_length": 0}
        args = scripts.scripts_postproc.create_args_for_run({"Diffusion Perception": given, "Upscale": off})
        postprocessing.run_postprocessing(2, None, None, folder, out, False, *args)
    return {}

script_callbacks.on_app_started(lambda demo, app: app.add_api_route("/probe/extras", extras, methods=["POST"]))
"""
"""An extension that does what the page's button does: the host's own API leaves the scripts' arguments out."""


class WebUI:
    """One that is running."""

    def __init__(self, port: int, log: Path) -> None:
        self.place, self.log = f"http://127.0.0.1:{port}", log

    def get(self, path: str) -> dict:
        return requests.get(self.place + path, timeout=60).json()

    def detect(self, preprocessor: str, picture: np.ndarray) -> np.ndarray:
        """What "Run preprocessor" shows, uint8 (H, W, 3)."""
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        asked = {
            "controlnet_module": preprocessor,
            "controlnet_input_images": [base64.b64encode(file.getvalue()).decode()],
        }
        answer = requests.post(self.place + "/controlnet/detect", json=asked, timeout=300)
        assert answer.ok, self.log.read_text("utf-8", "replace")[-3000:]
        shown = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0].split(",")[-1])))
        return np.asarray(shown.convert("RGB"))


@pytest.fixture(scope="module")
def webui(tmp_path_factory) -> Iterator[WebUI]:
    """Headless, on the CPU, with a data folder of its own that links to this clone under another name."""
    data = tmp_path_factory.mktemp("webui")
    (data / "extensions").mkdir()
    (data / "extensions" / "my pack.v2 (copy)").symlink_to(ROOT, target_is_directory=True)
    probe = data / "extensions" / "probe" / "scripts" / "probe.py"
    probe.parent.mkdir(parents=True)
    probe.write_text(PROBE, "utf-8")
    tiny.write_own(data / "models" / "perception" / "own.safetensors", RECIPES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = data / "log.txt"
    command = [PYTHON, "launch.py", *ARGUMENTS, "--port", str(port), "--data-dir", str(data)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=FOLDER, stdout=file, stderr=subprocess.STDOUT)
    running = WebUI(port, log)
    try:
        wait_for(running, process)
        yield running
    finally:
        process.terminate()
        process.wait(60)


def wait_for(webui: WebUI, process: subprocess.Popen) -> None:
    """Until it answers."""
    for _ in range(STARTED_IN):
        assert process.poll() is None, webui.log.read_text("utf-8", "replace")[-3000:]
        try:
            if requests.get(webui.place + "/controlnet/module_list", timeout=60).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(1)
    raise AssertionError(webui.log.read_text("utf-8", "replace")[-3000:])


def picture(height: int = 96, width: int = 120) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def seen(model: Path, task: str, shown: np.ndarray):
    """The map that diffusers' networks give."""
    image = torch.from_numpy(shown).float().movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        return predict(open_perceiver(model, task=task, device="cpu"), image)


def test_preprocessors_stand_in_the_lists_of_their_types(webui):
    types = webui.get("/controlnet/control_types")["control_types"]
    for kind, name in (("Depth", "depth"), ("NormalMap", "normal"), ("Segmentation", "seg")):
        assert f"{name}_perception demo" in types[kind]["module_list"]
        assert "perception" not in types[kind]["default_option"]
    assert {"depth_perception own", "normal_perception own"} <= {*webui.get("/controlnet/module_list")["module_list"]}


@pytest.mark.parametrize("name", TASKS)
def test_the_demo_answers_as_predict_does(webui, name):
    shown = picture()
    expected = ready_picture(seen(ROOT / "weights" / "starter.safetensors", TASKS[name], shown))[0].numpy() * 255
    given = webui.detect(f"{name}_perception demo", shown)
    assert given.shape == shown.shape
    assert np.abs(given - expected).max() <= 1


@pytest.mark.parametrize("task", ["depth", "normal"])
def test_a_file_of_the_user_answers_as_predict_does(webui, tmp_path, task):
    shown = picture(104, 72)
    own = tiny.write_own(tmp_path / "own.safetensors", RECIPES)
    expected = ready_picture(seen(own, task, shown))[0].numpy() * 255
    assert np.abs(webui.detect(f"{task}_perception own", shown) - expected).max() <= 1


def test_segmentation_comes_in_the_colours_of_ade20k(webui):
    shown = picture()
    expected = controlnet_picture(seen(ROOT / "weights" / "starter.safetensors", "segmentation", shown))
    given = webui.detect("seg_perception demo", shown)
    # a pixel between two classes may fall to either
    assert (given != expected).any(-1).mean() < 0.001


def test_extras_go_from_folder_to_folder_with_raw_values_and_cut_outs(webui, tmp_path):
    shown = {name: picture(96, 120 + 8 * number) for number, name in enumerate(("one", "two"))}
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, levels in shown.items():
        info = PngInfo()
        info.add_text("parameters", "a room, Steps: 20")
        Image.fromarray(levels).save(folder / f"{name}.png", pnginfo=info)
    given = {"enable": True, "maps": ["depth: demo", "mask: demo"], "raw": "npy", "cut_out": True}
    answer = requests.post(
        webui.place + "/probe/extras", json={"folder": str(folder), "out": str(out), "given": given}, timeout=300
    )
    assert answer.ok, webui.log.read_text("utf-8", "replace")[-3000:]
    kinds = ("", "-depth", "-mask", "-mask-cut-out")
    files = [f"{name}{kind}.png" for name in shown for kind in kinds]
    files += [f"{name}-{task}.npy" for name in shown for task in ("depth", "mask")]
    assert sorted(path.name for path in out.iterdir()) == sorted(files)
    for name, levels in shown.items():
        expected = seen(ROOT / "weights" / "starter.safetensors", "depth", levels)
        assert np.abs(np.load(out / f"{name}-depth.npy") - expected.values[0, ..., 0].numpy()).max() < 1e-3
        picture_of_it = np.asarray(Image.open(out / f"{name}-depth.png").convert("RGB"))
        assert np.abs(picture_of_it - ready_picture(expected)[0].numpy() * 255).max() <= 1
        alpha = np.asarray(Image.open(out / f"{name}-mask-cut-out.png"))[..., 3]
        assert np.abs(alpha / 255 - np.load(out / f"{name}-mask.npy").clip(0, 1)).max() <= 0.503 / 255
