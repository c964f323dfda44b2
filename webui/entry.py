"""What a WebUI is told when it executes the door in scripts/, and when it is about to build its page."""

from __future__ import annotations

import logging
from typing import Any

from modules import script_callbacks

from .hosts import is_known

log = logging.getLogger(__name__)
NO_HOST = (
    "Diffusion Perception runs in WebUIs of the Forge family, whose networks come from `backend`, and in "
    "AUTOMATIC1111's, whose come from `ldm`; this WebUI has neither, and nothing was added to it: use one of these, or "
    "ComfyUI."
)


def register() -> None:
    """To be called each time that scripts are executed: the host forgets callbacks before."""
    if is_known():
        # in API mode too, after all scripts and before the page
        script_callbacks.on_before_ui(_offer_preprocessors)
        script_callbacks.on_ui_settings(_offer_settings)
        script_callbacks.on_app_started(_offer_routes)
        script_callbacks.on_image_saved(_write_beside)
    else:
        log.warning(NO_HOST)


def _offer_preprocessors() -> None:
    """Networks and their classes are imported only now."""
    from .preprocessors import offer

    offer()


def _offer_settings() -> None:
    """For the page of settings."""
    from .settings import offer_settings

    offer_settings()


def _offer_routes(demo: Any, app: Any) -> None:
    """For programs. app: the host's server."""
    from .api import offer_api

    offer_api(app)


def _write_beside(params: script_callbacks.ImageSaveParams) -> None:
    """Of a map that Extras saved, its raw values."""
    from .extras import write_raw_beside

    write_raw_beside(params)


def scripts() -> dict[str, type]:
    """The classes that the host registers as scripts, each under its one name; no base class may be among them."""
    if not is_known():
        return {}
    from .extras import PerceptionExtras
    from .generated import PerceptionGenerated

    return {"PerceptionExtras": PerceptionExtras, "PerceptionGenerated": PerceptionGenerated}
