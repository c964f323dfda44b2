"""The archive that a node registry publishes: what git tracks, less what .comfyignore names; and what scanners flag."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).absolute().parents[1]


def git(*arguments: str) -> set[str]:
    """The paths that a git command lists."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments, "-z"], capture_output=True, check=True)
    return {name for name in done.stdout.decode().split("\0") if name}


def files() -> list[str]:
    """What is published; .comfyignore is read as git reads a .gitignore."""
    ignored = git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore")
    return sorted(name for name in git("ls-files", "--cached") - ignored if (ROOT / name).is_file())


def write(path: Path) -> Path:
    """The archive itself."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name in files():
            archive.write(ROOT / name, name)
    return path


FLAGGED_MODULES = {
    "subprocess": "starts programs", "pty": "starts programs", "multiprocessing.popen_fork": "starts programs",
    "socket": "reaches the network", "urllib.request": "reaches the network", "http": "reaches the network",
    "requests": "reaches the network", "httpx": "reaches the network", "aiohttp": "reaches the network",
    "ftplib": "reaches the network", "smtplib": "reaches the network", "paramiko": "reaches the network",
    "websocket": "reaches the network", "huggingface_hub": "reaches the network",
    "sqlite3": "opens a database", "psycopg2": "opens a database", "sqlalchemy": "opens a database",
    "ctypes": "calls foreign code", "marshal": "hides code", "zlib.decompress": "hides code", "pip": "installs",
}  # fmt: skip
FLAGGED_CALLS = {
    "eval": "runs text", "exec": "runs text", "compile": "runs text", "__import__": "imports by a computed name",
    "os.system": "starts programs", "os.popen": "starts programs", "os.fork": "starts programs",
    "os.execv": "starts programs", "os.execve": "starts programs", "os.execvp": "starts programs",
    "os.spawnl": "starts programs", "os.spawnv": "starts programs", "os.startfile": "starts programs",
    "os.putenv": "writes the environment", "os.unsetenv": "writes the environment",
    "os.environ.update": "writes the environment", "os.environ.setdefault": "writes the environment",
    "os.environ.pop": "writes the environment", "pickle.load": "runs pickles", "pickle.loads": "runs pickles",
    "base64.b64decode": "hides code", "torch.hub.load": "reaches the network",
}  # fmt: skip


def flags(source: str) -> Iterator[str]:
    """What a scanner of published packs objects to in a file."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for module, what in FLAGGED_MODULES.items():
                if name == module or name.startswith(module + "."):
                    yield f"line {line}: {name} {what}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FLAGGED_CALLS:
                yield f"line {line}: {called} {FLAGGED_CALLS[called]}"
            if called.endswith("import_module") and not (node.args and isinstance(node.args[0], ast.Constant)):
                yield f"line {line}: {called} imports by a computed name"
        written = [*getattr(node, "targets", ()), getattr(node, "target", None)]
        if any(isinstance(t, ast.Subscript) and ast.unparse(t.value) == "os.environ" for t in written):
            yield f"line {line}: os.environ is written"
