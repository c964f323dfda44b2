"""Notes: what a node wants a person to know, shown on it and kept in the log and the history."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..core.errors import UserError
from . import host

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

noted: ContextVar[list[str]] = ContextVar("noted")
"""What the execution that is under way has noted."""


def note(*notes: str, warning: bool = True) -> None:
    """At once onto the node that executes, below what it noted before, each note once. Warnings go into the log too."""
    held = noted.get([])
    new = [line for line in dict.fromkeys(filter(None, notes)) if line not in held]
    held += new
    for line in new:
        host.say(line)
        if warning:
            log.warning(line)


def shown() -> dict[str, Any] | None:
    """What was noted, for a NodeOutput's `ui`, which no browser shows for text: the history keeps it."""
    return {"text": ("\n".join(noted.get([])),)} if noted.get([]) else None


def telling(execute: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A node's `execute` that may note, and whose refusals are seen on the node too: newer browsers hide them behind
    two clicks."""

    @wraps(execute)
    def told(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        outer = noted.set([])
        try:
            return execute(*arguments, **named)
        except UserError as error:
            host.say(str(error))
            raise
        finally:
            noted.reset(outer)

    return told
