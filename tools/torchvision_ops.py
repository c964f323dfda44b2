"""Let a torchvision that was built for CUDA import on a CPU-only PyTorch, as the package registry combines them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

OPS = ("nms", "qnms")
_kept_alive: list[object] = []


class _DefineOpsFirst(MetaPathFinder):
    """Defines the ops when torchvision is about to be imported, for the host wants to be the first to import torch."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(name, path)
            if spec is not None and spec.origin is not None and _is_cuda_build(Path(spec.origin).parent):
                _define_missing_ops()
        return None


def install() -> None:
    """Define `torchvision::nms` and `::qnms` on import, where torch has no CUDA but torchvision was built for it.

    Anywhere else torchvision brings these ops itself, and defining them twice aborts the process.
    """
    sys.meta_path.insert(0, _DefineOpsFirst())


def _is_cuda_build(torchvision: Path) -> bool:
    return re.search(r"\+cu\d", (torchvision / "version.py").read_text(encoding="utf-8")) is not None


def _define_missing_ops() -> None:
    import torch

    if torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "DEF")
    for op in OPS:
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)  # the definitions go when the library does
