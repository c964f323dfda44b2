"""Commands in the documentation: the command line takes each as it stands, and knows the readers that it names."""

from __future__ import annotations

import re
import shlex
from inspect import signature
from pathlib import Path

import pytest

from diffusion_perception.trainer.cli import parser
from diffusion_perception.trainer.data.published import DATASETS

ROOT = Path(__file__).absolute().parents[1]
PAGES = (*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights/README.md")
COMMAND = re.compile(r"^ *diffusion-perception ([a-z].+)$|`diffusion-perception ([a-z]+ [^`]+)`", re.MULTILINE)
"""A line of its own, or words in a sentence that are more than a verb."""
SETS = re.compile(r"\b([a-z0-9-]+):[^\s,]+,?(\S*)")
READERS = re.compile(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \|[^|]*\|([^|]*)\|$", re.MULTILINE)
"""A row of the table of readers: their names, and what may be said of them."""

COMMANDS = [
    (page.relative_to(ROOT).as_posix(), " ".join((line or words).split()))
    for page in PAGES
    for line, words in COMMAND.findall(page.read_text("utf-8"))
]
"""(page, what follows the program's name)."""


def exit_code(line: str) -> object:
    """What the command line ends with before it runs a command; None if it would run it."""
    try:
        parser().parse_args(shlex.split(line))
    except SystemExit as left:
        return left.code
    return None


def known(reader: str) -> set[str]:
    """The settings of a reader."""
    return set(signature(DATASETS[reader]).parameters)


def test_every_verb_is_shown():
    verbs = {line.split()[0] for _, line in COMMANDS}
    assert verbs == {"predict", "train", "evaluate", "label", "check", "scenes", "export", "extract", "info"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_the_command_line_takes_what_is_written(page, line, capsys):
    assert exit_code(line) == (0 if "--help" in line else None), f"{page}: {capsys.readouterr().err}"


@pytest.mark.parametrize("line", [line for _, line in COMMANDS if line.split()[0] in ("evaluate", "check")])
def test_sets_name_readers_and_settings_that_exist(line):
    for reader, settings in SETS.findall(line):
        assert {pair.partition("=")[0] for pair in settings.split(",") if pair} <= known(reader)


def test_the_table_of_readers_is_whole_and_its_settings_exist():
    text = (ROOT / "docs/command-line.md").read_text("utf-8")
    rows = [(re.findall(r"`(\S+)`", names), re.findall(r"([a-z]+)=", said)) for names, said in READERS.findall(text)]
    told = [(names, said) for names, said in rows if set(names) <= set(DATASETS)]
    assert {name for names, _ in told for name in names} == set(DATASETS) - {"folder"}
    for names, said in told:
        assert set(said) <= set.union(*map(known, names)), names
