"""The nodes' words in the editor's languages: whole, told by the real host, and with the same facts in each."""

from __future__ import annotations

import re

import pytest

import locales

OURS = locales.OURS
LETTERS = {"zh": "[一-鿿]", "ja": "[぀-ヿ一-鿿]", "ko": "[가-힯]"}
"""What a text of a language is written in."""
SAME = {"vae", "latent"}
"""Words that are the same in all of them, but for capitals."""
SEARCHED = {
    "zh": ("深度", "法线", "遮罩", "抠图"),
    "ja": ("深度", "法線", "マスク", "マット"),
    "ko": ("깊이", "노멀", "마스크", "매트"),
}
"""What people search for whom Perceive is meant."""


@pytest.fixture(scope="module")
def schemas(comfyui):
    return {name: schema for name, schema in comfyui.object_info().items() if name.startswith(OURS)}


@pytest.fixture(scope="module", params=locales.TRANSLATED)
def language(request):
    return request.param


@pytest.fixture(scope="module")
def english():
    return locales.read(locales.ENGLISH)


@pytest.fixture(scope="module")
def translated(language):
    return locales.read(language)


def test_the_english_words_are_those_of_the_nodes(schemas, english):
    assert locales.english(schemas) == english, "write them anew: python tools/locales.py write"


def test_a_language_has_all_the_words_and_no_other(english, translated, language):
    faults = locales.differing(english, translated, language)
    assert faults == [], "write them into locales; python tools/locales.py missing lists them"


@pytest.mark.parametrize("told", [locales.ENGLISH, *locales.TRANSLATED])
def test_the_host_tells_the_words_to_its_editor(comfyui, told):
    served = dict(locales.flat(comfyui.get("/i18n")[told]))
    words = {place.removeprefix("main/"): text for place, text in locales.read(told).items()}
    assert len(words) > 250
    assert words.items() <= served.items()


def test_no_word_holds_what_the_editor_reads_as_a_command(english, translated):
    # vue-i18n: {placeholder}, @:link, singular | plural
    held = [text for text in (*english.values(), *translated.values()) if re.search(r"[{}@|]", text)]
    assert held == []
    assert all(text.strip() == text != "" for text in translated.values())


def test_no_word_is_left_in_english(english, translated, language):
    left = {
        place: text
        for place, text in translated.items()
        if not re.search(LETTERS[language], text) and not (text.lower() == english[place].lower() and known(text))
    }
    assert left == {}


def known(text: str) -> bool:
    return text.lower() in SAME


def test_a_sentence_is_in_its_own_language(translated, language):
    sentences = [text for text in translated.values() if len(text) > 24]
    assert len(sentences) > 50
    kana, hangul = ([text for text in sentences if re.search(form, text)] for form in ("[぀-ヿ]", LETTERS["ko"]))
    assert (kana, hangul) == ((sentences if language == "ja" else []), (sentences if language == "ko" else []))


def test_numbers_are_the_same(english, translated):
    faults = {place: text for place, text in translated.items() if numbers(text) != numbers(english[place])}
    assert faults == {}


def numbers(text: str) -> set[str]:
    return set(re.findall(r"-?\d+(?:\.\d+)*", text))


NAMES = r"Stable Diffusion|Marigold|\b[A-Za-z]*[a-z][A-Z]\w*|\b[A-Z][A-Z0-9_]+\b"
FIXED = r"[A-Za-z][\w/]*(?:_|/|=)[\w/]*|\b_\w+|%\w+%"
TERM = f"{FIXED}|{NAMES}"
"""Names of files, fields and types, FIELD=VALUE, and words with a capital in them, such as ControlNet."""


def terms(text: str) -> set[str]:
    """The fixed terms of a text, without the plural's letter."""
    return {term if term.isupper() else term.removesuffix("s") for term in re.findall(TERM, text)}


def explained(text: str, options: list[str]) -> set[str]:
    """The choices that a text speaks of: they are not translated where they are chosen."""
    return {option for option in options if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text, re.IGNORECASE)}


def test_fixed_terms_and_choices_are_kept(schemas, english, translated):
    checked, faults = 0, []
    for place, text in english.items():
        if place.endswith(("/name", "/display_name")):  # translated whole
            continue
        options = explained(text, choices(schemas, place))
        wanted = options | {shown(term, place, english, translated) for term in terms(text) - options}
        checked += len(wanted)
        faults += [f"{place} lacks {term}: {translated[place]}" for term in wanted if term not in translated[place]]
    assert faults == []
    assert checked > 100


def choices(schemas: dict, place: str) -> list[str]:
    """The choices of the input that a text is about, but for files."""
    match = re.fullmatch(r"nodeDefs/(\w+)/inputs/(\w+)/tooltip", place)
    if not match or match[2] in ("model", "adapter"):
        return []
    inputs = schemas[match[1]]["input"]
    kind, *rest = {**inputs.get("required", {}), **inputs.get("optional", {})}[match[2]]
    return kind if isinstance(kind, list) else (rest[0] if rest else {}).get("options", [])


def shown(term: str, place: str, english: dict[str, str], translated: dict[str, str]) -> str:
    """A term as the editor shows it: an input or output of the same node by its translated name."""
    node = "/".join(place.split("/")[:2])
    names = [name for name in english if name.startswith(f"{node}/") and name.endswith("/name")]
    return next((translated[name] for name in names if term in (english[name], name.split("/")[3])), term)


def test_a_node_is_named_as_it_is_shown(english, translated):
    names = {text: translated[place] for place, text in english.items() if place.endswith("/display_name")}
    assert len({*names.values()}) == len(names)
    short = {name.split(" (")[0]: shown.split(" · ")[0] for name, shown in names.items()}
    longest_first = "|".join(sorted(map(re.escape, short), key=len, reverse=True))
    sentences = {place: text for place, text in english.items() if place.endswith(("/tooltip", "/description"))}
    for place, text in sentences.items():
        told = re.findall('[“「"](.+?)[”」"]', translated[place])
        assert {short[name] for name in re.findall(rf"\b(?:{longest_first})\b", text)} <= {*told}, place


def test_the_same_sentence_is_translated_alike(english, translated):
    found: dict[str, set[str]] = {}
    for place, text in english.items():
        if " " in text:
            found.setdefault(text, set()).add(translated[place])
    assert [ways for ways in found.values() if len(ways) > 1] == []


def test_perceiving_is_found_first_by_what_people_search(translated, language):
    # the editor ranks a name that begins with the word, then one that holds it between spaces, then any other
    names = {place: text for place, text in translated.items() if place.endswith("/display_name")}
    first = names.pop(f"nodeDefs/{OURS}Perceive/display_name")
    for word in SEARCHED[language]:
        assert word in first.split()
        assert [name for name in names.values() if name.startswith(word) or word in name.split()] == []


BEFORE = {"a": "one", "b": "two", "c": "three"}


def test_what_changed_in_english_loses_its_translation():
    now = locales.renewed({**BEFORE, "b": "another"}, BEFORE, {"a": "eins", "b": "zwei", "c": "drei"})
    assert now == {"a": "eins", "c": "drei"}
    assert locales.differing({"a": "one", "b": "another"}, {"a": "eins", "x": "?"}, "de") == [
        "locales/de lacks b: another",
        "locales/de has x, which English has not",
    ]


def test_a_new_place_for_known_words_is_filled():
    assert locales.renewed({**BEFORE, "d": "two"}, BEFORE, {"b": "zwei"}) == {"b": "zwei", "d": "zwei"}
