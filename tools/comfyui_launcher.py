"""Run ComfyUI's main.py: `HOST_PYTHON comfyui_launcher.py [--stop-with-stdin] COMFYUI_DIR [its own arguments]`."""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path

import dynamic_vram
import torchaudio_absent
import torchvision_ops


def main() -> None:
    """Become ComfyUI, as if its main.py had been started."""
    arguments = sys.argv[1:]
    if arguments[0] == "--stop-with-stdin":
        arguments = arguments[1:]
        threading.Thread(target=_exit_with_stdin, daemon=True).start()
    comfyui = Path(arguments[0])
    torchvision_ops.install()
    torchaudio_absent.install()
    sys.path[0] = str(comfyui)  # in this folder's place, as Python does for main.py itself
    sys.argv = [str(comfyui / "main.py"), *arguments[1:]]
    if os.environ.get(dynamic_vram.SWITCH):
        import comfy.options

        comfy.options.enable_args_parsing()  # what follows imports comfy, which reads the arguments only now
        dynamic_vram.install()
    runpy.run_path(sys.argv[0], run_name="__main__")


def _exit_with_stdin() -> None:
    """Leave no server behind when whoever started it is gone, however it went."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
