"""Which WebUI this is, and the file that knows its networks."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType

from modules import shared

from ..core.errors import UserError


def is_forge() -> bool:
    """Whether this is a WebUI of the Forge family, whose networks come from `backend`."""
    return there("modules_forge") and there("backend")


def _is_a1111() -> bool:
    """Whether this is AUTOMATIC1111's, whose networks come from `ldm`."""
    return there("ldm") and not there("modules_forge")


def there(package: str) -> bool:
    """Whether a package could be imported; nothing of it is."""
    return find_spec(package) is not None


def is_known() -> bool:
    return is_forge() or _is_a1111()


def ticker() -> Callable[[], None]:
    """What to call after every pass of one piece of work. It raises UserError where the user interrupts; an earlier
    interruption, which the host remembers, does not count."""
    before = _is_interrupted()

    def tick() -> None:
        if _is_interrupted() and not before:
            raise UserError("Perceiving was interrupted.")

    return tick


def _is_interrupted() -> bool:
    return bool(shared.state.interrupted or shared.state.skipped)


def here() -> ModuleType:
    """webui.forge or webui.ldm, which have one set of names. Networks and their classes are imported only now."""
    if is_forge():
        from . import forge

        return forge
    from . import ldm

    return ldm
