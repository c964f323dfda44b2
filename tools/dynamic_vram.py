"""ComfyUI's dynamic VRAM without a GPU: its layers and patchers as main.py chooses them on every NVIDIA machine."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

SWITCH = "DIFFUSION_PERCEPTION_DYNAMIC_VRAM"


def install() -> None:
    """Do what main.py does once comfy-aimdo has found a GPU; nothing unless SWITCH is set.

    On the CPU weights are not streamed, but layers are made without weights until a file is loaded, keep its precision
    and cast it on use, and networks are given to the patcher that would stream them. Call it before any is made.
    """
    if not os.environ.get(SWITCH):
        return
    memory: Any = importlib.import_module("comfy.memory_management")
    patching: Any = importlib.import_module("comfy.model_patcher")
    if not hasattr(patching, "ModelPatcherDynamic") or not hasattr(memory, "aimdo_enabled"):
        raise SystemExit(f"{SWITCH} is set, and this ComfyUI has no dynamic VRAM: unset it, or take 0.16 or newer.")
    memory.aimdo_enabled = True
    patching.CoreModelPatcher = patching.ModelPatcherDynamic
    # on the CPU the patcher is a plain one, which leaves it to each layer whether it casts what it holds
    operations: Any = importlib.import_module("comfy.ops")
    operations.CastWeightBiasOp.comfy_cast_weights = True
    # the host would map files by comfy-aimdo, which needs the GPU
    loading: Any = importlib.import_module("comfy.utils")
    loading.load_safetensors = _read
    # what was imported has spoken before main.py sets its log up: Python then writes every line a second time itself
    logging.getLogger().handlers.clear()


def _read(path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors and the metadata of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
