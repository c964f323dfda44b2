"""Captions: the embeddings of pictures' texts, each made once and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.checkpoints.context import prompt_tokens, words_of
from ..core.checkpoints.networks import open_networks
from ..core.errors import UserError
from .config import Base, ConfigError
from .data.records import stamp
from .host import open_text_encoder, open_tokenizer
from .latents import digest, kept, save_latent
from .text import LONGEST

CHUNK = 32
"""Texts at once."""
WORDS = LONGEST - 2
"""Of the longest text, beside start and end."""


def encoder_beside(base: Base) -> Path:
    """The folder of the base's text encoder. ConfigError if it has none, or no tokenizer beside it."""
    found = open_networks(Path(base.path)).text_encoder if base.path else None
    if found is None or not (found.parent / "tokenizer").is_dir():
        raise ConfigError(
            "captions are encoded by the base's own text encoder: name a folder in diffusers layout, with "
            "text_encoder/ and tokenizer/, as base.path."
        )
    return found


class Captions:
    """A folder of embeddings, by their texts."""

    def __init__(self, folder: Path, text_encoder: Path) -> None:
        self.text_encoder = text_encoder
        weights = sorted(path for path in text_encoder.iterdir() if path.is_file())
        self.folder = folder / digest([(path.name, stamp(path)) for path in weights])

    def make(self, texts: Sequence[str], device: torch.device) -> None:
        """Encode those that are not kept yet."""
        missing = [text for text in texts if not self.file(text).is_file()]
        if not missing:
            return
        encoder, tokenise = open_text_encoder(self.text_encoder).to(device), Tokeniser(self.text_encoder)
        for first in tqdm(range(0, len(missing), CHUNK), desc="captions", unit="batch"):
            chunk = missing[first : first + CHUNK]
            with torch.no_grad():
                made = encoder(torch.tensor([tokenise(text) for text in chunk], device=device))[0]
            for text, embedding in zip(chunk, made):
                save_latent(self.file(text), embedding.half())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, 77, D) float32. UserError if one was not made, or is damaged."""
        found = [kept(self.file(text)) for text in texts]
        lost = [text for text, embedding in zip(texts, found) if embedding is None]
        if lost:
            raise UserError(f"{self.folder} lacks the embedding of {lost[0]!r}: remove the folder and start again.")
        return torch.stack([embedding.float() for embedding in found if embedding is not None])

    def file(self, text: str) -> Path:
        name = digest(text)
        return self.folder / name[:2] / f"{name[2:]}.npy"


class Tokeniser:
    """Texts to 77 token ids, cut off or padded as the base's own tokenizer does it."""

    def __init__(self, text_encoder: Path) -> None:
        self.tokenizer = open_tokenizer(text_encoder.parent / "tokenizer")
        self.start, self.end, self.padding, *_ = prompt_tokens(text_encoder, [], padded=True)

    def __call__(self, text: str) -> list[int]:
        words = words_of(self.tokenizer, text)[:WORDS]
        return [self.start, *words, self.end, *[self.padding] * (WORDS - len(words))]
