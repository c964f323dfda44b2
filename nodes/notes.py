"""Notes: what a node wants a person to know, shown on it and kept in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from comfy_api.latest import ui

log = logging.getLogger(__name__)


def shown(notes: Iterable[str], warning: bool = True) -> ui.PreviewText | None:
    """For a NodeOutput's `ui`: each note once, a line each; None where there is none. Warnings go into the log too."""
    lines = list(dict.fromkeys(filter(None, notes)))
    for line in lines if warning else ():
        log.warning(line)
    return ui.PreviewText("\n".join(lines)) if lines else None
