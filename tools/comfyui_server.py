"""A ComfyUI server in a process of its own, and the HTTP calls that make it work."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from comfyui_host import Host

if TYPE_CHECKING:
    from typing_extensions import Self

LAUNCHER = Path(__file__).with_name("comfyui_launcher.py")
PACK = Path(__file__).absolute().parents[1]
# Hyphenated, as the registry installs the pack: no import inside it may count on the folder's name.
PACK_NAME = "diffusion-perception"
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
# Nothing on this machine is asked about its proxy.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Graph = Mapping[str, Mapping[str, Any]]
"""A workflow in API format: node id -> {"class_type": ..., "inputs": ...}."""


class TracebackThere(Exception):
    """The traceback of an error in another process, given as the cause of the error here, so that both are shown."""


class GraphRejected(RuntimeError):
    """ComfyUI refused a graph before running it."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.error: dict[str, Any] = answer["error"]
        self.node_errors: dict[str, dict[str, Any]] = answer["node_errors"]
        details = [
            f"{node['class_type']} {node_id}: {error['message']} {error['details']}"
            for node_id, node in self.node_errors.items()
            for error in node["errors"]
        ]
        super().__init__("; ".join([self.error["message"], *details]))


class NodeFailed(RuntimeError):
    """A node raised an error; `str()` is that error's message."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.node_id: str = error["node_id"]
        self.node_type: str = error["node_type"]
        self.exception_type: str = error["exception_type"]
        self.message: str = error["exception_message"].strip()
        self.__cause__ = TracebackThere("\n" + "".join(error["traceback"]))
        super().__init__(self.message)


class Interrupted(RuntimeError):
    """The run was cancelled."""


class ServerDied(RuntimeError):
    """The server's process ended although nobody stopped it."""


@dataclass(frozen=True)
class Result:
    """What a graph that ran to its end left behind."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    """What each output node shows: node id -> its `ui` entries."""
    messages: list[tuple[str, dict[str, Any]]]
    """ComfyUI's own account of the run: (event, data)."""
    base: Path
    """The server's base directory."""

    @property
    def cached(self) -> set[str]:
        """The nodes whose earlier outputs were used again."""
        return {node for event, data in self.messages if event == "execution_cached" for node in data["nodes"]}

    def files(self, node_id: str) -> list[Path]:
        """The files that an output node wrote, in its order."""
        entries = (entry for value in self.outputs[node_id].values() if isinstance(value, list) for entry in value)
        return [
            self.base / entry["type"] / entry["subfolder"] / entry["filename"]
            for entry in entries
            if isinstance(entry, dict) and "filename" in entry
        ]


def make_base(base: Path, pack: Path = PACK) -> Path:
    """Make, or complete, the directory that ComfyUI reads and writes, with the pack linked in as a custom node."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK_NAME
    if not link.exists() or not link.samefile(pack):
        link.unlink(missing_ok=True)
        link.symlink_to(pack, target_is_directory=True)
    return base


def command(host: Host, base: Path, port: int, *arguments: str, stop_with_stdin: bool = False) -> list[str]:
    """The command that starts ComfyUI."""
    launch = [str(host.python), str(LAUNCHER), *(["--stop-with-stdin"] if stop_with_stdin else []), str(host.comfyui)]
    apart = ["--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    return [*launch, "--base-directory", str(base), "--port", str(port), *apart, *arguments]


def environment() -> dict[str, str]:
    """This process's environment without what would point the host's Python at other packages."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONUNBUFFERED": "1"}


class Server:
    """A ComfyUI that runs between `with` and its end, on a free port of this machine."""

    def __init__(
        self,
        host: Host,
        base: Path,
        *arguments: str,
        cpu: bool = True,
        boot_timeout: float = 300.0,
        pack: Path = PACK,
    ) -> None:
        self.base = make_base(base.absolute(), pack)
        self.port = _free_port()
        self.client_id = uuid.uuid4().hex
        self._log_path = self.base / "comfyui.log"
        self._boot_timeout = boot_timeout
        arguments = ("--cpu", *arguments) if cpu else arguments
        self._command = command(host, self.base, self.port, *arguments, stop_with_stdin=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment()
            )
        try:
            for _ in self._until(time.monotonic() + self._boot_timeout, "ComfyUI to start"):
                if self.answers():
                    return self
        except (ServerDied, TimeoutError):
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; harmless where it has ended."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether the process runs and answers."""
        return self._process is not None and self._process.poll() is None and self.answers()

    def answers(self) -> bool:
        """Whether anybody serves at the port."""
        try:
            self.get("/system_stats")
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        """All that ComfyUI has printed so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def input(self) -> Path:
        """The directory that LoadImage reads."""
        return self.base / "input"

    @property
    def output(self) -> Path:
        """The directory that nodes save to."""
        return self.base / "output"

    @property
    def models(self) -> Path:
        """The directory of model folders."""
        return self.base / "models"

    def get(self, path: str) -> Any:
        """The JSON that ComfyUI answers to a GET."""
        return self._call(path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that ComfyUI answers to a POST of JSON, None where it answers nothing."""
        return self._call(path, json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        with _direct.open(urllib.request.Request(self.url + path, body, headers), timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def words(self, path: str) -> tuple[str, str]:
        """The text that ComfyUI answers to a GET, and its media type."""
        with _direct.open(self.url + path, timeout=60) as answer:
            return answer.read().decode(), answer.headers.get_content_type()

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """The schemas of all nodes, or of one."""
        return self.get("/object_info" + (f"/{node}" if node else ""))

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What ComfyUI remembers of a run; None until it has ended."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def add_input(self, file: Path, name: str | None = None) -> str:
        """Copy a file to where LoadImage finds it, and give the name it has there."""
        name = name or file.name
        shutil.copyfile(file, self.input / name)
        return name

    def submit(self, graph: Graph, timeout: float = 600.0) -> Result:
        """Run a graph to its end; raises GraphRejected, NodeFailed or Interrupted."""
        return self.wait(self.start(graph), timeout)

    def start(self, graph: Graph) -> str:
        """Queue a graph and give its prompt id."""
        try:
            return self.post("/prompt", {"prompt": graph, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as refusal:
            raise GraphRejected(json.load(refusal)) from None

    def wait(self, prompt_id: str, timeout: float = 600.0) -> Result:
        """Wait until a queued graph has ended."""
        for _ in self._until(time.monotonic() + timeout, f"the graph {prompt_id}"):
            entry = self.history(prompt_id)
            if entry is not None:
                return self._result(prompt_id, entry)
        raise AssertionError("unreachable: the loop ends by returning or raising")

    def _result(self, prompt_id: str, entry: Mapping[str, Any]) -> Result:
        messages = [(event, data) for event, data in entry["status"]["messages"]]
        for event, data in messages:
            if event == "execution_error":
                raise NodeFailed(data)
            if event == "execution_interrupted":
                raise Interrupted(f"{data['node_type']} {data['node_id']} was interrupted")
        return Result(prompt_id, entry["outputs"], messages, self.base)

    def _until(self, deadline: float, event: str) -> Iterator[None]:
        """Beat time for somebody who waits, until the deadline or the server's death."""
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                status = self._process.returncode
                raise ServerDied(f"ComfyUI ended with status {status}. Its last words:\n{self._tail()}")
            yield
            time.sleep(0.05)
        raise TimeoutError(f"Waited too long for {event}. ComfyUI's last words:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.log.splitlines()[-40:])

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Cancel the run in progress (or only this one, if it is the one)."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Make ComfyUI unload all models and forget all outputs; they are gone when this returns."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        # The one worker frees after the run it is at, so what is submitted after this graph runs after the freeing.
        self.submit({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        })  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
