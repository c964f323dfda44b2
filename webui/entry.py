"""What a WebUI is told when it executes the door in scripts/, and when it is about to build its page."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from modules import script_callbacks

log = logging.getLogger(__name__)
NO_HOST = (
    "Diffusion Perception runs in WebUIs of the Forge family, whose networks come from `backend`; this WebUI has none, "
    "and nothing was added to it: use it in Forge, or in ComfyUI."
)


def is_forge() -> bool:
    """Whether this is a WebUI of the Forge family."""
    return find_spec("modules_forge") is not None and find_spec("backend") is not None


def register() -> None:
    """To be called each time that scripts are executed: the host forgets callbacks before."""
    if is_forge():
        # in API mode too, after all scripts and before the page
        script_callbacks.on_before_ui(offer_preprocessors)
        script_callbacks.on_image_saved(write_beside)
    else:
        log.warning(NO_HOST)


def offer_preprocessors() -> None:
    """Networks and their classes are imported only now."""
    from .preprocessors import offer

    offer()


def write_beside(params: script_callbacks.ImageSaveParams) -> None:
    """Of a map that Extras saved, its raw values."""
    from .extras import write_beside

    write_beside(params)


def scripts() -> dict[str, type]:
    """The classes that the host registers as scripts, each under its one name; no base class may be among them."""
    if not is_forge():
        return {}
    from .extras import PerceptionExtras

    return {"PerceptionExtras": PerceptionExtras}
