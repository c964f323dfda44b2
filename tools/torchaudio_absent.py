"""Let a ComfyUI that imports torchaudio start without it: nothing that this pack uses of ComfyUI sounds."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn

MODULES = ("torchaudio", "torchaudio.functional", "torchaudio.transforms")
"""What ComfyUI imports by name."""


class _Absent(ModuleType):
    """A module in which every name is there, and fails when it is called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*arguments: object, **named: object) -> NoReturn:
            raise ImportError(f"{self.__name__}.{name} was called, and torchaudio is not installed here")

        return called


def install() -> None:
    """Stand in for torchaudio where it is not installed."""
    if find_spec("torchaudio") is None:
        for name in MODULES:
            module = sys.modules[name] = _Absent(name)
            module.__path__, module.__spec__ = [], ModuleSpec(name, None, is_package=True)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
