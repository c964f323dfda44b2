"""Run a function in the host's Python, with ComfyUI and the pack importable, where HTTP shows too little."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import tempfile
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
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
    """Calls functions in a fresh process of the host's Python, each with the same base directory.

    It is fresh by being forked off one that has come up, which takes ten times as long as most of the functions.
    """

    def __init__(self, host: Host, base: Path) -> None:
        self.host = host
        self.base = make_base(base)
        self._up: dict[Any, subprocess.Popen[str]] = {}
        """Those that have come up, by how."""

    def close(self) -> None:
        """End them."""
        while self._up:
            _, process = self._up.popitem()
            _end(process)

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
            (folder / "job.json").write_text(json.dumps({"function": function.__name__}), encoding="utf-8")
            status = self._do(folder, (host_arguments, extra_nodes), timeout)
            if (folder / "error.json").exists():
                raise FailedInside(json.loads((folder / "error.json").read_text(encoding="utf-8")))
            assert status == 0, f"the host's Python ended with status {status}:\n{_last_words(folder / 'words.txt')}"
            return _read_result(folder)

    def _do(self, folder: Path, way: tuple[tuple[str, ...], bool], timeout: float) -> int:
        """Have the job of a folder done by a host that came up in this way."""
        process = self._up.get(way) or self._start(*way)
        if hasattr(os, "fork"):
            self._up[way] = process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(timeout, _kill, [process])
        timer.start()
        try:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            timer.cancel()
        if not answer or way not in self._up:
            self._up.pop(way, None)
            _end(process)
        assert answer, f"the host's Python ended:\n{_last_words(self.base / 'inside.log')}"
        return int(answer)

    def _start(self, host_arguments: tuple[str, ...], extra_nodes: bool) -> subprocess.Popen[str]:
        told = {
            "comfyui": str(self.host.comfyui),
            "arguments": ["--base-directory", str(self.base), *host_arguments],
            "pack": str(PACK),
            "extra_nodes": extra_nodes,
        }
        boot = self.base / "boot.json"
        boot.write_text(json.dumps(told), encoding="utf-8")
        # this folder leads the path there, being the script's; the launcher's holds torchvision_ops
        there = environment() | {"PYTHONPATH": str(LAUNCHER.parent)}
        command = [str(self.host.python), str(HERE / "host_process.py"), str(boot)]
        with (self.base / "inside.log").open("wb") as log:
            return subprocess.Popen(
                command, stdin=PIPE, stdout=PIPE, stderr=log, env=there, text=True, start_new_session=True
            )


def _kill(process: subprocess.Popen[str]) -> None:
    """With what is forked off it, which would keep its answers open."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _end(process: subprocess.Popen[str]) -> None:
    _kill(process)
    process.communicate()


def _last_words(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")[-4000:] if file.exists() else ""


def _write_arguments(folder: Path, arguments: dict[str, Any]) -> None:
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in arguments.items() if name not in arrays}
    np.savez(folder / "arguments.npz", **arrays)  # pyright: ignore[reportArgumentType]
    (folder / "arguments.json").write_text(json.dumps(plain, default=str), encoding="utf-8")


def _read_result(folder: Path) -> dict[str, Any]:
    with np.load(folder / "result.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "result.json").read_text(encoding="utf-8")) | dict(arrays)
