"""Notes: what a node wants a person to know, shown on it and kept in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

from comfy_api.latest import ui

from ..core.errors import UserError
from . import host

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def shown(notes: Iterable[str], warning: bool = True) -> ui.PreviewText | None:
    """Onto the node that executes, each note once, a line each; None where there is none. Warnings go into the log too.

    What it gives is for a NodeOutput's `ui`, which no browser shows for text: the history keeps it.
    """
    lines = list(dict.fromkeys(filter(None, notes)))
    for line in lines if warning else ():
        log.warning(line)
    if not lines:
        return None
    host.say("\n".join(lines))
    return ui.PreviewText("\n".join(lines))


def telling(execute: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A node's `execute` whose refusals are seen on the node too: newer browsers hide them behind two clicks."""

    @wraps(execute)
    def told(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return execute(*arguments, **named)
        except UserError as error:
            host.say(str(error))
            raise

    return told
