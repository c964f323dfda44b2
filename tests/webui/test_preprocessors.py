"""Tests of webui/: its side of the contract with a Forge, on stand-ins for that and diffusers' networks in their place.

What Forge's own networks answer is tried in tests/webui/host, where there is a Forge.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from diffusion_perception.core.display.picture import ready
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.perception_map import PerceptionMap
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import open_perceiver

ROOT = Path(__file__).absolute().parents[2]
STAND_IN = [str(Path(__file__).absolute().parent / name) for name in ("stand_in", "stand_in_forge")]
DEPTH = "depth_perception demo"


@pytest.fixture
def offered(forge):
    from modules_forge.shared import supported_preprocessors

    from diffusion_perception.webui.preprocessors import offer

    offer()
    return supported_preprocessors


def levels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_each_recipe_of_each_file_is_offered_under_its_type(offered):
    told = {name: (one.tags, one.model_filename_filters) for name, one in offered.items()}
    own = {
        "depth_perception own": (["Depth"], ["depth"]),
        "normal_perception own": (["NormalMap"], ["normal"]),
        "matte_perception own": ([], []),
    }
    chosen = {name.removesuffix(" own"): row for name, row in own.items()}
    demo = {name: row for name, row in told.items() if name.endswith(" demo") or f"{name} demo" in told}
    assert told == own | chosen | demo
    assert told["seg_perception demo"] == (["Segmentation"], ["seg"])
    # the host's own have 100, and the second of a type is its default
    assert offered[DEPTH].sorting_priority < offered["depth_perception own"].sorting_priority < 100


def test_offering_again_leaves_what_others_offer_and_drops_what_is_gone(offered, tmp_path):
    from diffusion_perception.webui.preprocessors import offer

    offered["depth_midas"] = None
    (tmp_path / "perception" / "own.safetensors").unlink()
    offer()
    assert "depth_midas" in offered
    assert DEPTH in offered
    assert [name for name in offered if name.endswith(" own")] == []


def test_a_list_that_was_sorted_before_is_sorted_again(forge, monkeypatch):
    """As Neo keeps it."""
    from modules_forge.shared import supported_preprocessors

    from diffusion_perception.webui.preprocessors import offer

    lists = SimpleNamespace(get_sorted_preprocessors=lru_cache(lambda: sorted(supported_preprocessors)))
    monkeypatch.setitem(sys.modules, "lib_controlnet.global_state", lists)
    assert DEPTH not in lists.get_sorted_preprocessors()
    offer()
    assert DEPTH in lists.get_sorted_preprocessors()


def test_what_cannot_be_opened_is_told_in_a_sentence(forge, caplog):
    from diffusion_perception.webui.models import choices

    choices(forge.LIBRARY)
    (said,) = [record.getMessage() for record in caplog.records if record.name.endswith("webui.models")]
    assert said.startswith("broken.safetensors is not offered: ")


@pytest.mark.parametrize("task", ["depth", "normal", "matte"])
def test_a_picture_is_what_predict_shows_at_its_own_size(offered, tmp_path, task):
    picture = levels(40, 56, 3)
    own = open_perceiver(tmp_path / "perception" / "own.safetensors", task=task, device="cpu")
    image = torch.from_numpy(picture).float().movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        expected = ready(predict(own, image))[0][0].numpy() * 255
    given = offered[f"{task}_perception own"](picture, resolution=512, slider_1=0.5, input_mask=None, unknown=1)
    assert given.dtype == np.uint8
    assert given.shape == (40, 56, 3)
    assert np.abs(given - expected).max() <= 0.51


def test_gray_and_transparent_pictures_are_read_as_rgb(offered):
    gray = levels(40, 56)
    rgb, alpha = np.repeat(gray[..., None], 3, -1), levels(40, 56, 1)
    expected = offered[DEPTH](rgb, 512)
    for same in (gray, gray[..., None], np.concatenate((rgb, alpha), -1)):
        assert np.array_equal(offered[DEPTH](same, 512), expected)


def test_a_pose_comes_with_its_json_once_and_without_where_nobody_asks(forge, tmp_path):
    from modules_forge.shared import supported_preprocessors

    from diffusion_perception.webui.preprocessors import offer

    recipe = Recipe("keypoints", base="custom", resolution=64, head="vitpose_simple")
    head = untrained_head(recipe.head, (32, 64, 64, 64), 32, recipe.channels)
    with torch.no_grad():
        head.final_layer.weight.mul_(40)  # so that it finds something
    tiny.write_own(tmp_path / "perception" / "people.safetensors", [recipe], heads={recipe.head: head.state_dict()})
    offer()
    name = "openpose_perception people"
    picture, told = levels(64, 48, 3), []
    drawn = supported_preprocessors[name](picture, 512, json_pose_callback=told.append)
    assert drawn.shape == picture.shape
    (pose,) = told
    assert (pose["canvas_height"], pose["canvas_width"], len(pose["people"])) == (64, 48, 1)
    assert len(pose["people"][0]["pose_keypoints_2d"]) == 18 * 3
    assert np.array_equal(supported_preprocessors[name](picture, 512), drawn)


def test_a_picture_that_is_none_is_refused_in_a_sentence(offered):
    with pytest.raises(ValueError, match="expected 8 bits"):
        offered[DEPTH](np.zeros((8, 8, 3), np.float32), 512)


def test_networks_run_on_the_main_thread_and_an_error_comes_back(forge):
    from modules import call_queue
    from modules_forge import main_thread

    seen, raised = [], []

    def work(function):
        def run():
            try:
                seen.append(forge.in_turn(function))
            except ZeroDivisionError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        main_thread.serve_one()
        thread.join()

    work(threading.current_thread)
    work(lambda: call_queue.queue_lock.locked())
    work(lambda: 1 / 0)
    assert seen == [threading.main_thread(), True]
    assert len(raised) == 1
    assert not call_queue.queue_lock.locked()
    assert forge.in_turn(lambda: call_queue.queue_lock.locked()) is False  # a generation holds it already


class Pressed:
    """A button that is pressed when it has been looked at once."""

    skipped, looked = False, False

    @property
    def interrupted(self) -> bool:
        before, self.looked = self.looked, True
        return before


def test_interrupting_stops_between_passes(forge, offered, monkeypatch):
    from modules import shared

    monkeypatch.setattr(shared, "state", Pressed())
    with pytest.raises(ValueError, match="interrupted"):
        offered[DEPTH](levels(16, 16, 3), 512)


def test_an_earlier_interruption_does_not_count(forge, offered, monkeypatch):
    from modules import shared

    monkeypatch.setattr(shared.state, "interrupted", True)  # the host remembers it until its next work begins
    offered[DEPTH](levels(16, 16, 3), 512)


def test_a_perceiver_is_loaded_once_and_few_are_kept(forge):
    from diffusion_perception.webui.models import KEPT, choices

    own = [choice for choice in choices(forge.LIBRARY) if not choice.is_demo]
    first = forge.MODELS.perceiver(own[0])
    assert forge.MODELS.perceiver(own[0]) is first
    for choice in own:
        forge.MODELS.perceiver(choice)
    assert len(forge.MODELS.held) == KEPT < len(own)
    assert forge.MODELS.perceiver(own[0]) is not first


def test_segmentation_is_shown_in_the_colours_that_its_controlnet_reads(forge):
    from diffusion_perception.core.display.colour import PALETTES
    from diffusion_perception.core.perception_map import Convention
    from diffusion_perception.webui.work import controlnet_picture

    coco, ade20k = PALETTES["coco"], PALETTES["ade20k"]
    index = torch.tensor([[coco.classes.index("couch"), coco.classes.index("kite")]])
    convention = Convention(palette="coco", classes=True)
    shown = controlnet_picture(PerceptionMap("segmentation", index[None, ..., None].float(), convention))
    assert shown[0, 0].tolist() == ade20k.table()[ade20k.classes.index("sofa")].tolist()
    assert shown[0, 1].tolist() == [0, 0, 0]  # no counterpart


INSIDE = """
import runpy, sys
sys.path[:0] = {path}
from modules import script_callbacks
door = {door!r}
for _ in range(2):
    for told in (script_callbacks.before_ui, script_callbacks.image_saved):
        told.clear()
    there = runpy.run_path(door)
    imported = {{name for name in sys.modules if name.startswith("diffusion_perception.webui.")}}
    light = {{f"diffusion_perception.webui.{{name}}" for name in ("entry", "extras", "generated", "hosts")}}
    assert imported == light or _, imported
    assert "torch" not in sys.modules or _, "networks are imported before anybody asks"
    assert len(script_callbacks.image_saved) == 1
    (callback,) = script_callbacks.before_ui
    callback()
    from modules_forge.shared import supported_preprocessors
    names = list(supported_preprocessors)
    assert names.count({depth!r}) == 1, names
import diffusion_perception
print(diffusion_perception.__file__)
classes = [name for name, value in there.items() if isinstance(value, type) and not value.__module__ == "pathlib"]
assert classes == ["PerceptionExtras", "PerceptionGenerated"], classes
"""


@pytest.mark.parametrize("folder", ["my pack.v2 (copy)"])
def test_the_door_opens_in_a_folder_of_any_name_twice_and_beside_an_installed_copy(tmp_path, folder):
    clone = tmp_path / "extensions" / folder
    clone.parent.mkdir()
    clone.symlink_to(ROOT, target_is_directory=True)
    installed = tmp_path / "site-packages" / "diffusion_perception"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("raise SystemExit('another version got in')")
    door = str(clone / "scripts" / "diffusion_perception.py")
    source = INSIDE.format(path=[str(installed.parent), *STAND_IN], door=door, depth=DEPTH)
    there = {**os.environ, "STAND_IN_MODELS": str(tmp_path / "models")}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=there, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(clone / "__init__.py")
    assert (tmp_path / "models" / "perception").is_dir()  # so that people find it


def test_a_webui_without_a_backend_is_told_in_a_sentence(tmp_path):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "__init__.py").touch()
    for name in ("script_callbacks.py", "shared.py"):
        (modules / name).write_text((Path(STAND_IN[0]) / "modules" / name).read_text())
    door = str(ROOT / "scripts" / "diffusion_perception.py")
    source = f"import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\nrunpy.run_path({door!r})"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.strip().startswith("Diffusion Perception runs in WebUIs of the Forge family")
    assert done.stderr.count("\n") == 1
