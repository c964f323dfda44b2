"""The one kind of error whose sentence is meant for the person who works with the pack, and what it proposes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that a person can mend: what came, what was expected, what to do. Hosts and commands show its sentence
    alone; any other error is a fault of the program and shows its traceback."""


def meant(word: str, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """The end of a sentence about a word that is not known: what was probably meant, at most so many; else otherwise,
    in which {known} becomes all of them."""
    names = list(known)
    near = difflib.get_close_matches(word, names, most)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return otherwise.format(known=", ".join(names))
