"""Run a function in the host's Python, with ComfyUI and the pack importable, where HTTP shows too little."""

from __future__ import annotations

import inspect
import json
import subprocess
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from comfyui_host import Host
from comfyui_server import LAUNCHER, PACK, TracebackThere, environment, make_base

HERE = Path(__file__).parent


class FailedInside(RuntimeError):
    """The function raised an error over there; `str()` is that error's message."""

    def __init__(self, told: dict[str, str]) -> None:
        self.exception_type = told["type"]
        self.__cause__ = TracebackThere("\n" + told["traceback"])
        super().__init__(told["message"])


class InsideHost:
    """Calls functions in a fresh process of the host's Python, each with the same base directory."""

    def __init__(self, host: Host, base: Path) -> None:
        self.host = host
        self.base = make_base(base)

    def __call__(
        self,
        function: Callable[..., Any],
        *others: Callable[..., Any],
        host_arguments: tuple[str, ...] = ("--cpu",),
        extra_nodes: bool = False,
        timeout: float = 600.0,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Call a function there and give the dictionary that it returns.

        Only the text of the function, and of the others that it calls, travels: they import what they need inside
        themselves (`from diffusion_perception.core import ...`, `import comfy.sd`, `from host_process import execute`).
        Arguments and results are JSON values, paths (there: strings) and arrays (tensors come back as arrays). It runs
        in inference mode, as a node does.
        `host_arguments` are ComfyUI's command line; `extra_nodes` also loads ComfyUI's node packs beyond nodes.py.
        Raises FailedInside with the error that it raised there.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            texts = [textwrap.dedent(inspect.getsource(each)) for each in (*others, function)]
            source = "\n".join(["from __future__ import annotations", *texts])
            (folder / "source.py").write_text(source, encoding="utf-8")
            _write_arguments(folder, arguments)
            self._write_job(folder, function.__name__, host_arguments, extra_nodes)
            self._run(folder, timeout)
            return _read_result(folder)

    def _write_job(self, folder: Path, function: str, host_arguments: tuple[str, ...], extra_nodes: bool) -> None:
        job = {
            "comfyui": str(self.host.comfyui),
            "arguments": ["--base-directory", str(self.base), *host_arguments],
            "pack": str(PACK),
            "function": function,
            "extra_nodes": extra_nodes,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")

    def _run(self, folder: Path, timeout: float) -> None:
        command = [str(self.host.python), str(HERE / "host_process.py"), str(folder)]
        # this folder leads the path there, being the script's; the launcher's holds torchvision_ops
        there = environment() | {"PYTHONPATH": str(LAUNCHER.parent)}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=there, timeout=timeout)
        if (folder / "error.json").exists():
            raise FailedInside(json.loads((folder / "error.json").read_text(encoding="utf-8")))
        words = done.stderr.decode(errors="replace")[-4000:]
        assert done.returncode == 0, f"the host's Python ended with status {done.returncode}:\n{words}"


def _write_arguments(folder: Path, arguments: dict[str, Any]) -> None:
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in arguments.items() if name not in arrays}
    np.savez(folder / "arguments.npz", **arrays)  # pyright: ignore[reportArgumentType]
    (folder / "arguments.json").write_text(json.dumps(plain, default=str), encoding="utf-8")


def _read_result(folder: Path) -> dict[str, Any]:
    with np.load(folder / "result.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "result.json").read_text(encoding="utf-8")) | dict(arrays)
