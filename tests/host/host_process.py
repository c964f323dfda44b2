"""Runs in the host's Python: ComfyUI's modules without its server, the pack, and functions of tests.

`host_process.py BOOT_FILE` brings all up, then reads folders of jobs, a line each. A job is done in a fork, where there
are forks, and so in a process of its own that has come up already: job.json and arguments.npz are read, `source.py`'s
function is called, result.json and result.npz written; a line says that it has ended. The function may import from this
module too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PACKAGE = "diffusion_perception"


def boot(comfyui: Path, arguments: list[str], pack: Path, extra_nodes: bool) -> None:
    """Bring up ComfyUI in this process as its main.py does, and the pack's nodes in it."""
    sys.path.insert(0, str(comfyui))
    sys.argv = [str(comfyui / "main.py"), *arguments]
    import comfy.options

    comfy.options.enable_args_parsing()
    import dynamic_vram

    dynamic_vram.install()
    import utils.extra_config  # noqa: F401, I001 before `nodes`, which puts another `utils` on the path
    import nodes
    import server

    server.PromptServer.instance = stub_server()
    if extra_nodes:
        asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    register(load_pack(pack))


def stub_server() -> SimpleNamespace:
    """What nodes and the executor touch of a PromptServer."""
    return SimpleNamespace(
        client_id=None,
        last_node_id=None,
        last_prompt_id=None,
        sockets_metadata={},
        send_sync=lambda *message: None,
        send_progress_text=lambda *message, **to: None,
    )


def load_pack(pack: Path) -> ModuleType:
    """Load the pack as ComfyUI does, but under its import name, so that a test reaches all of it by that name."""
    spec = importlib.util.spec_from_file_location(PACKAGE, pack / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return module


def register(pack: ModuleType) -> None:
    """Give the pack's nodes to the executor."""
    import nodes

    for node in pack_nodes(pack):
        nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node


def pack_nodes(pack: ModuleType) -> list[Any]:
    """The node classes that the pack's extension lists."""

    async def listed() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return asyncio.run(listed())


def execute(graph: dict[str, Any]) -> Any:
    """Run a graph, in API format, through a fresh executor; gives the executor, with `success` and `history_result`."""
    import execution
    import server

    valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("1", graph, None))
    if not valid:
        raise ValueError(f"ComfyUI refused the graph: {error} {node_errors}")
    # the cache's argument was called cache_size up to ComfyUI 0.3.68 or so; hosts before 0.23 know no ram_inactive
    known = inspect.signature(execution.PromptExecutor.__init__).parameters
    cache = {"cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}} if "cache_args" in known else {"cache_size": 0}
    executor = execution.PromptExecutor(server.PromptServer.instance, cache_type=execution.CacheType.CLASSIC, **cache)
    executor.execute(graph, "1", {}, outputs)
    return executor


def call(folder: Path, function: str) -> dict[str, Any]:
    """Call the test's function with the job's arguments, in inference mode as the executor calls nodes."""
    import numpy as np
    import torch

    spec = importlib.util.spec_from_file_location("source", folder / "source.py")
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    sys.modules["source"] = source
    spec.loader.exec_module(source)
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    with np.load(folder / "arguments.npz", allow_pickle=False) as arrays, torch.inference_mode():
        return getattr(source, function)(**arguments, **arrays)


def write(folder: Path, result: dict[str, Any] | None) -> None:
    """Arrays and tensors go to result.npz, everything else to result.json."""
    import numpy as np
    import torch

    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in (result or {}).items():
        if isinstance(value, torch.Tensor):
            arrays[name] = value.detach().cpu().numpy()
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            plain[name] = value
    np.savez(folder / "result.npz", **arrays)  # pyright: ignore[reportArgumentType]
    (folder / "result.json").write_text(json.dumps(plain), encoding="utf-8")


def work(folder: Path) -> int:
    """Do the job of a folder, with what is printed in words.txt there; gives the process's status."""
    try:
        write(folder, call(folder, json.loads((folder / "job.json").read_text(encoding="utf-8"))["function"]))
    except BaseException as error:  # noqa: BLE001 whatever a function of a test raises is told there
        told = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        (folder / "error.json").write_text(json.dumps(told), encoding="utf-8")
        return 1
    return 0


def in_fork(folder: Path) -> int:
    """The same in a process of its own; gives its status, negative if a signal ended it."""
    child = os.fork()
    if not child:
        words = os.open(folder / "words.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(words, 1)
        os.dup2(words, 2)
        status = work(folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Come up as the file on the command line says, and do the jobs that are named on the standard input."""
    # what ComfyUI prints is not to be taken for an answer
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.modules["host_process"] = sys.modules["__main__"]
    import torchaudio_absent
    import torchvision_ops

    torchvision_ops.install()
    torchaudio_absent.install()
    boot(Path(told["comfyui"]), told["arguments"], Path(told["pack"]), told["extra_nodes"])
    do = in_fork if hasattr(os, "fork") else work
    for line in sys.stdin:
        print(do(Path(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
