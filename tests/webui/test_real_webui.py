"""Tests in a real WebUI, where WEBUI_DIR names one: what it offers, and what its networks answer.

WEBUI_PYTHON is the Python of its environment, the one in its venv/ if left out. WEBUI_CHECKPOINT may name an SD 1.5
checkpoint, of random weights even, for the tests of the model that is loaded.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
import tiny
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from tiny_adapters import kinds_of_adapters, low_rank

from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter
from diffusion_perception.core.display.picture import ready_picture
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import DiffusersBackbone, open_perceiver
from diffusion_perception.webui.work import controlnet_picture

ROOT = Path(__file__).absolute().parents[2]
FOLDER = Path(os.environ.get("WEBUI_DIR", ""))
if not (FOLDER / "webui.py").is_file():
    pytest.skip("WEBUI_DIR names no WebUI: nothing here was tried in a real Forge or A1111", allow_module_level=True)

PYTHON = os.environ.get("WEBUI_PYTHON") or str(FOLDER / "venv" / "bin" / "python")
IS_FORGE = (FOLDER / "modules_forge").is_dir()
IS_NEO = IS_FORGE and (FOLDER / "requirements.txt").is_file()
A1111 = (
    *("--use-cpu", "all", "--no-half", "--skip-version-check", "--no-download-sd-model", "--do-not-download-clip"),
    "--skip-load-model-at-start",
)
CPU = ("--cpu", "--skip-python-version-check") if IS_NEO else ("--always-cpu",) if IS_FORGE else A1111
CREDENTIALS = ("me", "secret")
CONTROLNET = FOLDER / "extensions" / "sd-webui-controlnet"
"""AUTOMATIC1111's has it from this extension; the Forge family brings its own."""
ARGUMENTS = [
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--nowebui", "--api", "--server-name", "127.0.0.1"),
    *("--api-auth", ":".join(CREDENTIALS)),
    *CPU,
]
STARTED_IN = 300
TASKS = {"depth": "depth", "normal": "normal", "mask": "mask", "albedo": "albedo"}
"""The demo's preprocessors and their tasks."""
GOLDEN = Path(os.environ.get("GOLDEN_DIR") or ROOT.parent / "shared" / "golden")
PUBLISHED = {
    "genpercept-depth": ("genpercept_onestep", "depth"),
    "genpercept-normal": ("genpercept_onestep", "normal"),
    "genpercept-dis": ("genpercept_onestep", "mask"),
    "genpercept-seg": ("genpercept_onestep", "segmentation"),
    "marigold-normals-v1-1": ("marigold_normals_v1_1", "normal"),
    "lotus-depth-d-v1-1": ("lotus_d", "depth"),
}
"""{as what a published folder is found: (the folder of GOLDEN in its place, what it perceives)}."""
PREPROCESSORS = {"segmentation": "seg"}
"""Of tasks that ControlNet calls otherwise."""
CHECKPOINT = Path(os.environ.get("WEBUI_CHECKPOINT", ""))
needs_checkpoint = pytest.mark.skipif(
    not CHECKPOINT.is_file(), reason="WEBUI_CHECKPOINT names no SD 1.5 checkpoint: no loaded model was tried"
)
RECIPES = [Recipe(task="depth", base="custom"), Recipe(task="normal", base="custom", axes=("left", "up", "back"))]


PROBE = """
import hashlib
from inspect import signature

from fastapi import Body
from modules import call_queue, postprocessing, script_callbacks, scripts, shared

def networks():
    model = shared.sd_model
    held = getattr(model, "forge_objects", None)
    if held is None:
        return {"unet": model.model.diffusion_model, "vae": model.first_stage_model}
    return {"unet": held.unet.model.diffusion_model, "vae": held.vae.first_stage_model}

def state():
    told = {}
    for part, network in networks().items():
        for name, tensor in network.state_dict().items():
            number = hashlib.sha256(tensor.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()
            told[f"{part}.{name}"] = f"{tensor.dtype} {number}"
        for name, layer in network.named_modules():
            own = sorted({"forward", "_forward"} & {*vars(layer)})
            cast = getattr(layer, "parameters_manual_cast", None)
            told[f"{part}.{name}."] = f"{len(layer._forward_hooks)} {len(layer._forward_pre_hooks)} {own} {cast}"
    return told

FAILING = []

def fail(on: bool = Body(embed=True)):
    def raises(*given):
        raise ZeroDivisionError("as asked")
    if on:
        FAILING.append(networks()["unet"].get_submodule("out.2").register_forward_hook(raises))
    else:
        FAILING.pop().remove()
    return {}

def extras(folder: str = Body(), out: str = Body(), given: dict = Body()):
    with call_queue.queue_lock:
        off = {"upscale_enabled": False, "upscale_by": 1.0, "max_side_length": 0}
        args = scripts.scripts_postproc.create_args_for_run({"Diffusion Perception": given, "Upscale": off})
        # Neo hands over a video too
        video = [None] if "_" in signature(postprocessing.run_postprocessing).parameters else []
        postprocessing.run_postprocessing(2, None, None, folder, out, False, *video, *args)
    return {}

def offer(demo, app):
    app.add_api_route("/probe/extras", extras, methods=["POST"])
    app.add_api_route("/probe/state", state, methods=["GET"])
    app.add_api_route("/probe/fail", fail, methods=["POST"])

script_callbacks.on_app_started(offer)
"""
"""An extension that does what the page's button does, for the host's own API leaves the scripts' arguments out; that
tells what the loaded model's weights and layers are; and that makes its UNet fail."""


class WebUI:
    """One that is running."""

    def __init__(self, port: int, log: Path) -> None:
        self.place, self.log = f"http://127.0.0.1:{port}", log

    def get(self, path: str) -> dict:
        return requests.get(self.place + path, timeout=60, auth=CREDENTIALS).json()

    def post(self, path: str, content: dict) -> requests.Response:
        return requests.post(self.place + path, json=content, timeout=300, auth=CREDENTIALS)

    def detect(self, preprocessor: str, picture: np.ndarray) -> np.ndarray:
        """What "Run preprocessor" shows, uint8 (H, W, 3)."""
        asked = {"controlnet_module": preprocessor, "controlnet_input_images": [encoded(picture)]}
        answer = self.post("/controlnet/detect", asked)
        assert answer.ok, self.log.read_text("utf-8", "replace")[-3000:]
        return decoded(answer.json()["images"][0])


def encoded(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.split(",")[-1]))).convert("RGB"))


@pytest.fixture(scope="module")
def webui(tmp_path_factory) -> Iterator[WebUI]:
    """Headless, on the CPU, with a data folder of its own that links to this clone under another name."""
    data = tmp_path_factory.mktemp("webui")
    (data / "extensions").mkdir()
    (data / "extensions" / "my pack.v2 (copy)").symlink_to(ROOT, target_is_directory=True)
    if CONTROLNET.is_dir() and not IS_FORGE:
        (data / "extensions" / CONTROLNET.name).symlink_to(CONTROLNET, target_is_directory=True)
    probe = data / "extensions" / "probe" / "scripts" / "probe.py"
    probe.parent.mkdir(parents=True)
    probe.write_text(PROBE, "utf-8")
    tiny.write_own(data / "models" / "perception" / "own.safetensors", RECIPES)
    adapter = replace(
        kinds_of_adapters(tiny.unet(generation=1))["every Linear"], recipes=(Recipe("depth", base="custom"),)
    )
    write_adapter(data / "models" / "perception" / "adapter.safetensors", adapter)
    for name, (folder, _) in PUBLISHED.items():
        if (GOLDEN / folder).is_dir():
            # several links to one folder would be one choice
            shutil.copytree(GOLDEN / folder, data / "models" / "perception" / name)
    if CHECKPOINT.is_file():
        put_loaded_model(data / "models")
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


def put_loaded_model(models: Path) -> None:
    """The checkpoint, an adapter for it, and a LoRA of the user's."""
    (models / "Stable-diffusion").mkdir()
    (models / "Stable-diffusion" / "random.safetensors").symlink_to(CHECKPOINT)
    with torch.device("meta"):
        layers = DiffusersBackbone(UNet2DConditionModel(cross_attention_dim=768)).modules()
    parts = {name: low_rank(layer) for name, layer in layers.items() if name.endswith("attn1.to_q")}
    sd15 = Adapter(models / "perception" / "sd15.safetensors", parts, base="sd15", recipes=(Recipe("depth"),))
    write_adapter(sd15.path, sd15)
    (models / "Lora").mkdir()
    tensors = {}
    for name in parts:
        key, layer = f"lora_unet_{name.replace('.', '_')}", layers[name]
        tensors[f"{key}.lora_down.weight"] = torch.full((1, layer.in_features), 1e-2)
        tensors[f"{key}.lora_up.weight"] = torch.full((layer.out_features, 1), 1e-2)
    save_file(tensors, models / "Lora" / "users.safetensors")


def wait_for(webui: WebUI, process: subprocess.Popen) -> None:
    """Until it answers."""
    for _ in range(STARTED_IN):
        assert process.poll() is None, webui.log.read_text("utf-8", "replace")[-3000:]
        try:
            if requests.get(webui.place + "/controlnet/module_list", timeout=60, auth=CREDENTIALS).ok:
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
    webui.get("/controlnet/model_list")  # without a page sd-webui-controlnet looks for models only when asked
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_folder_answers_as_predict_does(webui, golden, tmp_path, name):
    folder, task = PUBLISHED[name]
    (tmp_path / name).symlink_to(golden / folder, target_is_directory=True)
    shown = picture()
    map = seen(tmp_path / name, task, shown)
    given = webui.detect(f"{PREPROCESSORS.get(task, task)}_perception {name}", shown)
    if task == "segmentation":
        # a pixel between two classes may fall to either
        assert (given != controlnet_picture(map)).any(-1).mean() < 0.001
    else:
        assert np.abs(given - ready_picture(map)[0].numpy() * 255).max() <= 1


def test_extras_go_from_folder_to_folder_with_raw_values_and_cut_outs(webui, tmp_path):
    shown = {name: picture(96, 120 + 8 * number) for number, name in enumerate(("one", "two"))}
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, levels in shown.items():
        info = PngInfo()
        info.add_text("parameters", "a room, Steps: 20")
        Image.fromarray(levels).save(folder / f"{name}.png", pnginfo=info)
    given = {"enable": True, "maps": ["depth: demo", "mask: demo"], "raw": "npy", "cut_out": True}
    answer = webui.post("/probe/extras", {"folder": str(folder), "out": str(out), "given": given})
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


def test_programs_are_answered_as_predict_does(webui):
    assert {"depth: demo", "depth: own", "normal: own"} <= {*webui.get("/perception/v1/maps")["maps"]}
    shown = picture()
    answer = webui.post("/perception/v1/perceive", {"image": encoded(shown), "map": "depth: demo", "raw": "npy"}).json()
    expected = seen(ROOT / "weights" / "starter.safetensors", "depth", shown)
    assert np.abs(decoded(answer["image"]) - ready_picture(expected)[0].numpy() * 255).max() <= 1
    values = np.load(io.BytesIO(base64.b64decode(answer["raw"])))
    assert np.abs(values - expected.values[0, ..., 0].numpy()).max() < 1e-3


@pytest.mark.parametrize("credentials", [None, ("me", "wrong")])
def test_who_has_no_credentials_is_turned_away(webui, credentials):
    asked = {"image": encoded(picture()), "map": "depth: demo"}
    answer = requests.post(webui.place + "/perception/v1/perceive", json=asked, timeout=60, auth=credentials)
    assert answer.status_code == 401
    assert requests.get(webui.place + "/perception/v1/maps", timeout=60, auth=credentials).status_code == 401


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"image": "/etc/passwd", "map": "depth: demo"}, "not a path or URL"),
        ({"image": "https://example.org/a.png", "map": "depth: demo"}, "not a path or URL"),
        ({"image": encoded(picture()), "map": "depth: gone"}, "There is no map 'depth: gone'"),
    ],
)
def test_what_cannot_be_answered_is_told_in_a_sentence(webui, asked, said):
    answer = webui.post("/perception/v1/perceive", asked)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_the_scripts_of_the_pages_are_there(webui):
    assert "diffusion perception" in webui.get("/sdapi/v1/scripts")["txt2img"]


def test_an_adapter_without_a_model_to_run_on_is_told_in_a_sentence(webui):
    answer = webui.post("/perception/v1/perceive", {"image": encoded(picture()), "map": "depth: adapter"})
    assert answer.status_code == 422, webui.log.read_text("utf-8", "replace")[-3000:]
    assert "\n" not in answer.json()["detail"]


def generated(webui, prompt: str) -> list[np.ndarray]:
    """What txt2img gives with a map of each picture."""
    script = {"diffusion perception": {"args": [True, ["depth: sd15"], "none"]}}
    asked = {"prompt": prompt, "steps": 1, "width": 128, "height": 64, "seed": 1, "alwayson_scripts": script}
    answer = webui.post("/sdapi/v1/txt2img", asked)
    assert answer.ok, webui.log.read_text("utf-8", "replace")[-3000:]
    return [decoded(text) for text in answer.json()["images"]]


@needs_checkpoint
def test_the_loaded_model_perceives_and_stays_as_it_was_where_it_fails_too(webui):
    asked = {"image": encoded(picture(64, 128)), "map": "depth: sd15", "raw": "npy"}
    shown, map = generated(webui, "a room <lora:users:1>")
    assert shown.shape == map.shape == (64, 128, 3)
    assert map.std() > 0
    before = webui.get("/probe/state")
    answer = webui.post("/perception/v1/perceive", asked)
    assert answer.ok, webui.log.read_text("utf-8", "replace")[-3000:]
    values = np.load(io.BytesIO(base64.b64decode(answer.json()["raw"])))
    assert values.shape == (64, 128)
    assert np.isfinite(values).all()
    assert webui.get("/probe/state") == before
    webui.post("/probe/fail", {"on": True})
    assert webui.post("/perception/v1/perceive", asked).status_code == 500
    webui.post("/probe/fail", {"on": False})
    assert webui.get("/probe/state") == before
    again, other = generated(webui, "a room <lora:users:1>")
    assert (again == shown).all()
    assert (other == map).all()
    assert webui.get("/probe/state") == before
