"""The presets are the published recipes: field by field, and what differs is named with its reason."""

from __future__ import annotations

import pytest
from published_recipes import DOCUMENT, OWN, PUBLISHED, document, settled

from diffusion_perception.trainer.presets import PRESETS


def test_every_preset_is_published_or_the_projects_own():
    assert {*PUBLISHED, *OWN} == {*PRESETS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_as_published_but_for_what_is_named(name):
    row, here = PUBLISHED[name], settled(name)
    assert set(row.says) <= set(here)
    other = {key: (here[key], value) for key, value in row.says.items() if here[key] != value}
    assert set(other) == set(row.differs), other


def test_the_page_is_what_the_table_says():
    assert DOCUMENT.read_text("utf-8") == document(), "run `python tests/published_recipes.py`"
