"""The rooms stay apart: what each may import is one table, and the source is held to it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).absolute().parents[1]
PACKAGE = "diffusion_perception"
NUMERICS = frozenset({"einops", "numpy", "safetensors", "torch"})
IMPORTERS = ("__import__", "import_module", "importlib.import_module")


@dataclass(frozen=True)
class Room:
    """What the files of one room may import besides the standard library and each other."""

    rooms: frozenset[str] = frozenset()
    """The other rooms, which a file reaches relatively."""
    packages: frozenset[str] = NUMERICS
    """Packages by their dotted names; a name stands for all that is in it."""
    inside_functions: frozenset[str] = frozenset({"scipy"})
    """Packages that only the function that needs them imports."""
    files: dict[str, frozenset[str]] = field(default_factory=dict)
    """What single files, by their paths inside the room, may import besides."""
    never: dict[str, frozenset[str]] = field(default_factory=dict)
    """{a sub-room, or "" for the files above them: sub-rooms it must not import}"""


ROOMS = {
    "core": Room(
        inside_functions=frozenset({"PIL", "scipy"}),
        # predicting needs nothing that lies on disk, and what shows or measures a map needs neither
        never={
            "": frozenset({"checkpoints", "display", "measure"}),
            "heads": frozenset({"checkpoints", "display", "measure"}),
            "checkpoints": frozenset({"display", "measure"}),
            "display": frozenset({"checkpoints", "measure"}),
            "measure": frozenset({"checkpoints", "display"}),
        },
    ),
    "nodes": Room(
        rooms=frozenset({"core"}),
        packages=NUMERICS | {"comfy_api.latest"},
        files={
            "example.py": frozenset({"PIL"}),
            "host.py": frozenset({"comfy", "comfy_execution", "comfy_extras", "folder_paths", "server"}),
            "library.py": frozenset({"folder_paths"}),
            "save.py": frozenset({"av", "folder_paths"}),
        },
    ),
    "webui": Room(
        rooms=frozenset({"core"}),
        files={
            "api.py": frozenset({"PIL", "fastapi", "modules"}),
            "entry.py": frozenset({"modules"}),
            "extras.py": frozenset({"PIL", "gradio", "modules"}),
            "forge.py": frozenset({"backend", "modules", "modules_forge"}),
            "generated.py": frozenset({"PIL", "gradio", "modules"}),
            "hosts.py": frozenset({"modules"}),
            "ldm.py": frozenset({"ldm", "modules"}),
            "preprocessors.py": frozenset({"modules_forge"}),
            "settings.py": frozenset({"gradio", "modules"}),
        },
        inside_functions=frozenset({"transformers"}),
    ),
    "trainer": Room(
        rooms=frozenset({"core"}),
        packages=NUMERICS
        | {"PIL", "accelerate", "cv2", "diffusers", "peft", "scipy"}
        | {"tomli", "tomlkit", "tqdm", "transformers"},
        # what only some data sets, models or metrics need
        inside_functions=frozenset(
            {"OpenEXR", "av", "bitsandbytes", "h5py", "lmdb", "onnxruntime", "pycocotools", "skimage"}
        ),
        files={"cli.py": frozenset({"..scenes"})},  # guarded: node packs come without it
        never={"data": frozenset({"runs"})},
    ),
    "scenes": Room(
        rooms=frozenset({"core"}),
        packages=frozenset({"cv2", "numpy"}),
        inside_functions=frozenset({"anny", "drjit", "mitsuba", "mitsuba_oidn", "scipy", "tomli", "torch", "tqdm"}),
        files={"blender_script.py": frozenset({"bpy", "mathutils"})},  # Blender's own Python runs it
    ),
}


NOT_IN_THE_WHEEL = {"webui"}
"""Rooms that only a host loads, from a clone."""


@dataclass(frozen=True)
class Import:
    """One imported name: how many dots it begins with, the rest, and whether it is inside a function."""

    level: int
    name: str
    lazy: bool


def imports(source: str) -> Iterator[Import]:
    """All imports of a file, those by importlib included."""
    tree = ast.parse(source)
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        for level, name in names(node):
            yield Import(level, name, id(node) in lazy)


def names(node: ast.AST) -> Iterator[tuple[int, str]]:
    """What one statement or call imports: (dots, dotted name)."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        stem = [node.module] if node.module else []
        yield from ((node.level, ".".join([*stem, alias.name])) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS:
        name = str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else ""
        dots = len(name) - len(name.lstrip("."))
        yield dots, name.lstrip(".")


def fault(found: Import, room: str, file: str) -> str | None:
    """Why a file of a room must not have this import; None if it may. file: its path inside the room."""
    rules = ROOMS[room]
    top, _, rest = found.name.partition(".")
    inside = file.split("/")[:-1]
    if found.level == len(inside) + 2:
        own = {name.removeprefix("..") for name in rules.files.get(file, ()) if name.startswith("..")}
        return None if top in rules.rooms | {room} | own else f"{room} must not import ..{top}"
    if found.level > len(inside) + 2:
        return "an import must not climb out of the pack"
    if found.level:
        sub_room = [*inside[: len(inside) + 1 - found.level], top][0]
        return f"{file} must not import {sub_room}/" if sub_room in rules.never.get("".join(inside), ()) else None
    if top == PACKAGE:
        return "inside the pack, import relatively"
    if top in sys.stdlib_module_names:
        return None
    lazily = rules.inside_functions if found.lazy else frozenset()
    allowed = rules.packages | rules.files.get(file, frozenset()) | lazily
    if any(found.name == package or found.name.startswith(package + ".") for package in allowed):
        return None
    where = "" if found.lazy or top not in rules.inside_functions else " outside a function"
    return f"{room} must not import {found.name}{where}"


def faults(room: str, file: str, source: str) -> list[str]:
    """All that is wrong with the imports of a file."""
    return [f"{room}/{file}: {reason}" for found in imports(source) if (reason := fault(found, room, file))]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    files = {path.relative_to(ROOT / room).as_posix(): path for path in sorted((ROOT / room).rglob("*.py"))}
    assert [reason for file, path in files.items() for reason in faults(room, file, path.read_text("utf-8"))] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_flat_or_has_sub_rooms_that_are(room):
    files = [path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*.py")]
    assert [file for file in files if len(file.parts) > 2] == []
    assert set(ROOMS[room].never) - {""} <= {file.parts[0] for file in files if len(file.parts) == 2}


def test_the_door_imports_nothing_of_the_pack_until_called():
    door = (ROOT / "__init__.py").read_text("utf-8")
    body = [node for node in ast.parse(door).body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    outside = [node for node in body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    found = {name.split(".")[0] for node in outside for _, name in names(node)}
    assert found <= sys.stdlib_module_names


def test_the_door_of_webuis_imports_nothing_but_what_it_leads_to():
    found = {name for _, name in names_in((ROOT / "scripts" / "diffusion_perception.py").read_text("utf-8"))}
    ours = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert ours == {"diffusion_perception.webui.entry"}


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """All that a file imports: (dots, dotted name)."""
    return ((found.level, found.name) for found in imports(source))


def test_every_room_that_is_no_hosts_alone_is_in_the_wheel_and_nothing_else_is():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()]
    rooms = [path.parent for folder in folders for path in folder.rglob("__init__.py")]
    parts = [room.relative_to(ROOT).parts for room in rooms if room.name not in NOT_IN_THE_WHEEL]
    assert sorted(packages) == sorted([PACKAGE, *(".".join([PACKAGE, *names]) for names in parts)])
    assert {folder.name for folder in folders} == {*ROOMS}


PLANTED = [
    ("core", "tasks.py", "import comfy.utils", "core must not import comfy.utils"),
    ("core", "tasks.py", "from diffusers import UNet2DConditionModel", "core must not import diffusers"),
    ("core", "tasks.py", "def load():\n    import cv2", "core must not import cv2"),
    ("core", "tasks.py", "from PIL import Image", "core must not import PIL.Image outside a function"),
    ("core", "tasks.py", "import scipy.ndimage", "core must not import scipy.ndimage outside a function"),
    ("core", "tasks.py", "from scipy import ndimage", "core must not import scipy.ndimage outside a function"),
    ("core", "tasks.py", "from ..trainer import loop", "core must not import ..trainer"),
    ("core", "tasks.py", "from .. import nodes", "core must not import ..nodes"),
    ("core", "tasks.py", "from ...elsewhere import x", "an import must not climb out of the pack"),
    ("core", "tasks.py", "import importlib\nimportlib.import_module('diffusers')", "core must not import diffusers"),
    ("core", "tasks.py", "import importlib as i\nimport_module('..nodes')", "core must not import ..nodes"),
    ("core", "tasks.py", "from torchvision import ops", "core must not import torchvision.ops"),
    ("nodes", "render.py", "import comfy.model_management", "nodes must not import comfy.model_management"),
    ("nodes", "render.py", "import folder_paths", "nodes must not import folder_paths"),
    ("nodes", "render.py", "import av", "nodes must not import av"),
    ("nodes", "render.py", "from PIL import Image", "nodes must not import PIL.Image"),
    ("nodes", "library.py", "import av", "nodes must not import av"),
    ("nodes", "save.py", "import comfy.utils", "nodes must not import comfy.utils"),
    ("nodes", "host.py", "from nodes import NODE_CLASS_MAPPINGS", "nodes must not import nodes.NODE_CLASS_MAPPINGS"),
    ("nodes", "host.py", "import cv2", "nodes must not import cv2"),
    ("nodes", "render.py", "import comfy_api.v0_0_2", "nodes must not import comfy_api.v0_0_2"),
    ("nodes", "render.py", "from ..trainer.config import Config", "nodes must not import ..trainer"),
    ("nodes", "render.py", "from diffusion_perception.core import tasks", "inside the pack, import relatively"),
    ("webui", "models.py", "from modules import shared", "webui must not import modules.shared"),
    ("webui", "work.py", "import backend.nn", "webui must not import backend.nn"),
    ("webui", "forge.py", "from ..nodes import host", "webui must not import ..nodes"),
    ("webui", "forge.py", "import diffusers", "webui must not import diffusers"),
    ("webui", "forge.py", "import transformers", "webui must not import transformers outside a function"),
    ("trainer", "loop.py", "from ..nodes import host", "trainer must not import ..nodes"),
    ("trainer", "loop.py", "from ..scenes import views", "trainer must not import ..scenes"),
    ("scenes", "views.py", "from ..trainer.data.arrays import READERS", "scenes must not import ..trainer"),
    ("scenes", "rooms.py", "import mitsuba", "scenes must not import mitsuba outside a function"),
    ("scenes", "rooms.py", "import torch", "scenes must not import torch outside a function"),
    ("trainer", "loop.py", "import nodes", "trainer must not import nodes"),
    ("trainer", "loop.py", "import folder_paths", "trainer must not import folder_paths"),
    ("trainer", "loop.py", "if True:\n    import comfy_api.latest", "trainer must not import comfy_api.latest"),
    ("core", "pipeline.py", "from .checkpoints.tensors import Weights", "pipeline.py must not import checkpoints/"),
    ("core", "heads/dpt.py", "from ..display import colour", "heads/dpt.py must not import display/"),
    ("core", "display/picture.py", "from ..measure import losses", "display/picture.py must not import measure/"),
    ("core", "display/picture.py", "from ...trainer import loop", "core must not import ..trainer"),
    ("core", "display/picture.py", "from ....elsewhere import x", "an import must not climb out of the pack"),
    ("trainer", "data/arrays.py", "from ..runs.trainable import groups", "data/arrays.py must not import runs/"),
]


@pytest.mark.parametrize(("room", "file", "source", "reason"), PLANTED)
def test_a_planted_fault_is_found(room, file, source, reason):
    (found,) = faults(room, file, source)
    assert found.startswith(f"{room}/{file}: {reason}")


ALLOWED = [
    ("core", "tasks.py", "import torch.nn.functional as F, math\nfrom .codecs import CODECS\nimport einops"),
    ("core", "measure/align.py", "def fit():\n    from scipy.optimize import minimize"),
    ("nodes", "render.py", "from comfy_api.latest import ComfyExtension, io, ui\nfrom ..core.tasks import TASKS"),
    ("nodes", "host.py", "import comfy.model_management\nimport folder_paths\nfrom comfy.sd import VAE"),
    ("nodes", "save.py", "import av, folder_paths"),
    (
        "trainer",
        "data/arrays.py",
        "from ...core.srgb import to_srgb\nfrom ..config import Config\nfrom .truth import Truth",
    ),
    ("trainer", "host.py", "import cv2\nfrom diffusers import AutoencoderKL\nfrom ..core.backbone import Backbone"),
]


@pytest.mark.parametrize(("room", "file", "source"), ALLOWED)
def test_what_a_room_may_import_is_no_fault(room, file, source):
    assert faults(room, file, source) == []
