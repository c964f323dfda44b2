"""Prompts: from a file, or from a language model that is asked about subjects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...core.errors import UserError
from ..data.records import read_lines
from .journal import Journal
from .plan import Prompts

Ask = Callable[[str, int, int], list[str]]
"""(question, how many answers, seed) -> answers."""


def prompts_of(wanted: Prompts, journal: Journal, device: str) -> list[str]:
    """All, each once, in their order; those in the journal are not asked for again."""
    found = _from_file(Path(wanted.file)) if wanted.file else written(wanted, journal, device)
    prompts = list(dict.fromkeys(filter(None, found)))
    if not prompts:
        raise UserError(f"{wanted.file or wanted.model} gave no prompts: look at what it says.")
    return prompts


def _from_file(path: Path) -> list[str]:
    """Its lines that are not empty."""
    if not path.is_file():
        raise UserError(f"There is no file of prompts {path}: check the path.")
    return [" ".join(line.split()) for line in read_lines(path)]


def written(wanted: Prompts, journal: Journal, device: str) -> Iterator[str]:
    """By the language model: batches of answers, each with a seed of its own."""
    known = {row["batch"]: row["prompts"] for row in journal.rows()}
    batches = list(_batches_of(wanted))
    ask: Ask | None = None
    for number, (subject, count) in enumerate(tqdm(batches, desc="prompts", disable=None, leave=False)):
        if number not in known:
            ask = ask or _language_model(wanted, device)
            answers = ask(wanted.question.replace("{}", subject), count, wanted.seed + number)
            known[number] = [_tidied(answer) for answer in answers]
            journal.add({"batch": number, "subject": subject, "seed": wanted.seed + number, "prompts": known[number]})
        yield from known[number]


def _batches_of(wanted: Prompts) -> Iterator[tuple[str, int]]:
    """(subject, how many answers)."""
    for subject in wanted.subjects:
        for first in range(0, wanted.count, wanted.at_once):
            yield subject, min(wanted.at_once, wanted.count - first)


def _tidied(answer: str) -> str:
    """On one line and without digits, which are numbers of lists as a rule."""
    return " ".join(re.sub(r"\d+[.)]?", " ", answer).split())


def _language_model(wanted: Prompts, device: str) -> Ask:
    """UserError for a folder that transformers cannot open."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(wanted.model, local_files_only=True)
        answers_only = bool(config.is_encoder_decoder)
        loader: Any = transformers.AutoModelForSeq2SeqLM if answers_only else transformers.AutoModelForCausalLM
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(wanted.model, local_files_only=True)
        model = loader.from_pretrained(wanted.model, local_files_only=True, dtype=dtype_on(device)).to(device).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{wanted.model} is no language model that transformers can open ({error}).") from error

    @torch.inference_mode()
    def ask(question: str, count: int, seed: int) -> list[str]:
        given = tokenizer(question, return_tensors="pt").to(device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tokens = model.generate(
                **given, do_sample=True, temperature=wanted.temperature, num_return_sequences=count,
                min_new_tokens=wanted.least, max_new_tokens=wanted.most,
            )  # fmt: skip
        start = 0 if answers_only else given["input_ids"].shape[1]
        return tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)

    return ask


def dtype_on(device: str) -> torch.dtype:
    """Half of the memory where there is an accelerator."""
    return torch.float32 if device == "cpu" else torch.float16
