"""The archive that a node registry publishes: what git tracks, less what .comfyignore names; and what scanners flag."""

from __future__ import annotations

import ast
import builtins
import subprocess
from collections.abc import Iterator, Mapping
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


OBJECTIONS = {
    "starts programs": (
        "subprocess", "pty", "multiprocessing", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell",
        "os.system", "os.popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp", "os.startfile",
        *(f"os.exec{how}" for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
        *(f"os.spawn{how}" for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    ),
    "reaches the network": (
        "socket", "socketserver", "ssl", "urllib.request", "urllib3", "http", "requests", "httpx", "aiohttp", "ftplib",
        "smtplib", "telnetlib", "xmlrpc", "paramiko", "websocket", "websockets", "huggingface_hub", "torch.hub",
        "webbrowser", "asyncio.open_connection",
    ),
    "opens a database": ("sqlite3", "dbm", "shelve", "psycopg2", "sqlalchemy", "pymysql"),
    "writes the environment": (
        "os.putenv", "os.unsetenv",
        *(f"os.environ.{how}" for how in ("update", "setdefault", "pop", "popitem", "clear")),
    ),
    "runs text": ("eval", "exec", "compile", "code", "runpy"),
    "runs pickles": ("pickle.load", "pickle.loads", "pickle.Unpickler", "dill", "cloudpickle", "joblib"),
    "hides code": ("base64", "binascii.a2b_base64", "binascii.unhexlify", "marshal", "zlib.decompress"),
    "calls foreign code": ("ctypes", "cffi"),
    "imports by a computed name": ("__import__", "imp", "importlib.util.spec_from_file_location"),
    "installs": ("pip", "ensurepip", "setuptools"),
}  # fmt: skip
FLAGGED = {name: what for what, names in OBJECTIONS.items() for name in names}
"""What no published file may name, by its dotted name; a name stands for all that is in it."""

SAFE_LOADS = {"torch.load": ("weights_only", True, True), "numpy.load": ("allow_pickle", False, False)}
"""Functions that run pickles if told to: the argument, its safe value, and whether it must be written."""


def origins(tree: ast.AST) -> dict[str, str]:
    """What a file's imported names stand for: name in the file -> dotted name."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def dotted(node: ast.AST | None, known: Mapping[str, str]) -> str:
    """What a name or a chain of attributes stands for; "" for values of the file's own."""
    if isinstance(node, ast.Attribute):
        stem = dotted(node.value, known)
        return f"{stem}.{node.attr}".removeprefix("builtins.") if stem else ""
    if isinstance(node, ast.Name):
        name = known.get(node.id, node.id if hasattr(builtins, node.id) else "")
        return name.removeprefix("builtins.")
    return ""


def named(node: ast.AST, known: Mapping[str, str]) -> list[str]:
    """The dotted names that a statement imports or an expression uses."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]
    return [dotted(node, known)]


def objections(node: ast.AST, known: Mapping[str, str]) -> Iterator[str]:
    """What a scanner has against one node of a file."""
    for name in named(node, known):
        for flagged, what in FLAGGED.items():
            if name == flagged or name.startswith(flagged + "."):
                yield f"{name} {what}"
    if isinstance(node, ast.Call):
        yield from call_objections(node, dotted(node.func, known))
    written = [*getattr(node, "targets", ()), getattr(node, "target", None)]
    held = [target.value if isinstance(target, ast.Subscript) else target for target in written]
    if any(dotted(target, known) == "os.environ" for target in held):
        yield "os.environ is written"


def call_objections(call: ast.Call, called: str) -> Iterator[str]:
    """What a scanner has against what a call is given."""
    if called == "importlib.import_module" and not (call.args and isinstance(call.args[0], ast.Constant)):
        yield f"{called} imports by a computed name"
    if called in SAFE_LOADS:
        argument, safe, must = SAFE_LOADS[called]
        given = [word.value for word in call.keywords if word.arg == argument]
        if not all(isinstance(value, ast.Constant) and value.value is safe for value in given) or (must and not given):
            yield f"{called} without {argument}={safe} runs pickles"


def flags(source: str) -> list[str]:
    """What a scanner of published packs objects to in a file, however it spells its imports."""
    tree = ast.parse(source)
    known = origins(tree)
    return [
        f"line {getattr(node, 'lineno', 0)}: {reason}" for node in ast.walk(tree) for reason in objections(node, known)
    ]
