"""ComfyUI for this pack: `comfyui.py install` makes sure there is one, `comfyui.py serve` opens it with the pack."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from comfyui_host import Host, HostError, cache_directory, install, install_for
from comfyui_server import command, environment, make_base

SEES_ACCELERATOR = """
import torch
raise SystemExit(not (torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()))
"""


def default_base() -> Path:
    """The directory in which `serve` and the demo keep models, inputs and outputs."""
    return cache_directory() / "base"


def serve(host: Host, base: Path, port: int, arguments: list[str]) -> None:
    """Become a ComfyUI that opens in the browser; on the CPU where there is nothing faster."""
    if "--cpu" not in arguments and not _sees_accelerator(host):
        arguments = ["--cpu", *arguments]
    print(f"ComfyUI opens at http://127.0.0.1:{port} with its files in {base}; end it with Ctrl-C.", flush=True)
    line = command(host, make_base(base), port, "--auto-launch", *arguments)
    os.execve(line[0], line, environment())


def _sees_accelerator(host: Host) -> bool:
    return subprocess.run([str(host.python), "-c", SEES_ACCELERATOR], env=environment()).returncode == 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="COMFYUI_DIR names a ComfyUI to use, HOST_PYTHON the Python that runs it; without them both are "
        "installed under DIFFUSION_PERCEPTION_CACHE, or ~/.cache/diffusion-perception.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install what is missing, and print where ComfyUI and its Python are")
    fitting = commands.add_parser("python-for", help="print a Python for a ComfyUI, made from its own requirements")
    fitting.add_argument("comfyui", type=Path, help="the folder of a ComfyUI of any version")
    serving = commands.add_parser("serve", help="start ComfyUI and open it in the browser")
    serving.add_argument("--base", type=Path, default=default_base(), help="models, input and output (%(default)s)")
    serving.add_argument("--port", type=int, default=8188, help="where it listens (%(default)s)")
    serving.add_argument("arguments", nargs="*", help="ComfyUI's own arguments, after --")
    chosen = parser.parse_args()
    fits = chosen.command == "python-for"
    try:
        host = install_for(chosen.comfyui.expanduser().absolute()) if fits else install()
    except HostError as error:
        raise SystemExit(f"error: {error}") from None
    if fits:
        print(host.python)
        return
    if chosen.command == "serve":
        serve(host, chosen.base.absolute(), chosen.port, chosen.arguments)
    print(f"ComfyUI {host.comfyui}\nPython  {host.python}")


if __name__ == "__main__":
    main()
