"""The door at which a Stable Diffusion WebUI knocks: it executes this file by its path and takes the classes in it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = "diffusion_perception"
DOOR = Path(__file__).absolute().parents[1] / "__init__.py"


def load_pack() -> None:
    """Make this folder, whatever its name, the package of a fixed name; one of another place under it goes."""
    held = getattr(sys.modules.get(PACKAGE), "__file__", None)
    if held and Path(held).resolve() == DOOR.resolve():
        return  # the page was reloaded: networks stay
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(PACKAGE + ".")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(PACKAGE, DOOR, submodule_search_locations=[str(DOOR.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACKAGE])


load_pack()

from diffusion_perception.webui import entry  # noqa: E402 - it is there only now

entry.register()
globals().update(entry.scripts())
