"""The published archive holds what a host needs, and nothing that a registry's scanner stops it for."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import archive
import pytest

if not (archive.ROOT / ".git").exists():
    pytest.skip("this copy is no clone: what git tracks is not known", allow_module_level=True)

PICTURES = archive.ROOT / "workflows" / "pictures"

PLANTED = [
    "import subprocess",
    "from subprocess import run",
    "def f():\n    import urllib.request",
    "from urllib import request",
    "import requests.sessions",
    "import os\nos.system('ls')",
    "import os\nos.environ['A'] = 'b'",
    "import os\ndel os.environ['A']",
    "import os\nos.environ.setdefault('A', 'b')",
    "eval('1')",
    "exec('x = 1')",
    "import importlib\nimportlib.import_module(name)",
    "__import__('os')",
    "import pickle\npickle.loads(b'')",
    "import sqlite3",
    "import ctypes",
    "from os import system\nsystem('ls')",
    "import os as o\no.system('ls')",
    "import os\nrun = os.system",
    "from os import environ\nenviron['A'] = 'b'",
    "import os\nos.environ |= {'A': 'b'}",
    "import os\nos.execl('ls')",
    "import asyncio\nasyncio.create_subprocess_exec('ls')",
    "import urllib\nurllib.request.urlopen(url)",
    "import builtins\nbuiltins.exec('x = 1')",
    "from builtins import exec as run\nrun('x = 1')",
    "run = eval",
    "from pickle import loads",
    "import torch\ntorch.load(file)",
    "import torch\ntorch.load(file, weights_only=False)",
    "from torch import load\nload(file, weights_only=careful)",
    "import numpy as np\nnp.load(file, allow_pickle=True)",
    "import torch\ntorch.hub.load('a', 'b')",
    "from base64 import b64decode\nb64decode(text)",
    "from importlib import import_module as bring\nbring(name)",
    "from importlib import util\nutil.spec_from_file_location('a', path)",
]


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_fault_is_found(source):
    assert archive.flags(source)


HARMLESS = [
    "import os\nos.environ.get('A')\nos.environ['A']",
    "model.eval()",
    "import re\nre.compile('a')",
    "import torch\ntorch.compile(network)",
    "import pickle\npickle.UnpicklingError",
    "import torch\ntorch.load(file, weights_only=True)",
    "import numpy as np\nnp.load(file)\nnp.load(file, allow_pickle=False)",
    "from urllib.parse import quote\nquote('a')",
    "import importlib\nimportlib.import_module('json')",
    "from .socket import http\nhttp.server(requests)",
    "def f(requests, code):\n    return requests.get(code)",
]


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_harmless_is_no_fault(source):
    assert archive.flags(source) == []


def test_nothing_in_the_archive_is_flagged():
    sources = {name: (archive.ROOT / name).read_text("utf-8") for name in archive.files() if name.endswith(".py")}
    assert len(sources) > 50
    assert {name: found for name, source in sources.items() if (found := archive.flags(source))} == {}


def test_the_archive_holds_the_pack_and_not_what_builds_it(tmp_path):
    names = archive.files()
    rooms = {name.split("/")[0] for name in names if "/" in name}
    assert {"core", "locales", "nodes", "subgraphs", "trainer", "web", "weights", "workflows"} <= rooms
    assert not rooms & {"scenes", "tests", "tools", "benchmarks", ".ci", ".github"}
    assert {"__init__.py", "pyproject.toml", "README.md", "LICENSE"} <= {*names}
    told = [*(archive.ROOT / "web" / "docs").rglob("*.md"), *(archive.ROOT / "locales").rglob("*.json")]
    assert len(told) > 20
    assert len([*PICTURES.glob("*.jpg")]) >= 3
    assert {file.relative_to(archive.ROOT).as_posix() for file in (*told, *PICTURES.glob("*.jpg"))} <= {*names}
    starter = (archive.ROOT / "weights" / "starter.safetensors").stat().st_size
    assert archive.write(tmp_path / "pack.zip").stat().st_size < starter + 5 * 2**20


def test_a_copy_without_the_renderers_says_where_they_are(tmp_path):
    pack = tmp_path / "diffusion_perception"
    for name in archive.files():
        if name.endswith(".py"):
            (pack / name).parent.mkdir(parents=True, exist_ok=True)
            (pack / name).write_bytes((archive.ROOT / name).read_bytes())
    command = [sys.executable, "-S", "-m", "diffusion_perception.trainer", "scenes", "--out", "x"]
    # -S: an editable install's finder would lead to the clone
    there = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])}
    told = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert told.returncode == 2
    assert "without the renderers" in told.stderr
    assert told.stderr.count("\n") == 1
    helped = subprocess.run([*command[:4], "--help"], cwd=tmp_path, env=there, capture_output=True, text=True)
    assert helped.returncode == 0
    assert "predict" in helped.stdout
