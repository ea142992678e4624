"""Translation by an engine: texts in, translations out, whatever their number and order.

Texts are sorted by length and translated some at a time; how long a translation may become follows from its own text, so
that an answer does not depend on what else was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from xlm.backends.torch import seq2seq
from xlm.errors import InputError
from xlm.inference.answers import marked
from xlm.inference.memory import in_halves
from xlm.tasks.translate import Ids, Sentences


class Translates:
    """The ``translate`` of an engine."""

    model: Any
    tokenizer: Any
    name: str
    max_tokens: int
    device: torch.device
    tasks: tuple[str, ...]

    _writing: threading.Lock
    """Translations of several threads wait for each other, as each takes all cores; those of another model do not."""

    @property
    def directions(self) -> list[tuple[str, str]]:
        """Pairs of languages that the model says it translates; empty where it says nothing."""
        return [(a, b) for a, b in getattr(self.model.config, "directions", None) or ()]

    def translate(
        self,
        texts: Sequence[str],
        target: str | None = None,
        source: str | None = None,
        *,
        num_beams: int = 4,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        max_new_tokens: int | None = None,
        truncate: bool = False,
        seed: int | None = None,
        progress: Callable[[int], None] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Translate texts: ``{"text", "translation", "source", "target"}`` each, in their order.

        Args:
            texts: sentences, or what else the model was trained on.
            target, source: languages by name. May be left out where the model knows one direction only that fits.
            num_beams: 1 for the best token each time, which is several times faster and a little worse.
            length_penalty: above 0 favours long translations: scores are divided by length ** penalty.
            early_stopping: ``True``, ``False`` or ``"never"``; see ``EncoderDecoderModel.generate``.
            max_new_tokens: of a translation; ``None``: 1.5 times its text's tokens and 10.
            truncate: cut texts that are longer than the model instead of refusing them; ``truncated`` in an answer says so.
            seed: of drawn tokens, with ``do_sample=True``.
            progress: called with the number of texts done before and after some are translated; what it raises ends the call.
            options: the others of ``EncoderDecoderModel.generate``.

        Raises:
            InputError: a text that is empty or too long, a language or direction that the model does not know, an
                impossible option, or a model that does not translate.
        """
        if "translate" not in self.tasks:
            raise InputError(f"{self.name} is a {type(self.model).__name__}: translate needs an encoder-decoder")
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise InputError(f"texts is of type {type(texts).__name__}: a list is needed")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts[{number}] is of type {type(text).__name__}: a text is needed")
            if not text.strip():
                raise InputError(f"texts[{number}]: the text is empty")
        source, target = self.direction(source, target)
        sentences = Sentences(self.tokenizer, self.model.config, self.max_tokens)
        rows, cut = self._sources(sentences, texts, source, truncate)
        if seed is not None:
            options["generator"] = torch.Generator(self.device).manual_seed(int(seed))
        options |= {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
        found: list[str] = [""] * len(texts)
        decoder, done = self.model.decoder.spec, 0

        def write(members: list[int]) -> tuple[list[int], list[list[int]]]:
            some = [rows[index] for index in members]
            most = [min(int(seq2seq.FACTOR * len(row)) + seq2seq.EXTRA, decoder.max_tokens - 1) for row in some]
            if max_new_tokens is not None:
                most = [max_new_tokens] * len(some)
            with self._writing, torch.inference_mode():
                if progress is not None:
                    progress(done)  # who asked may have gone while others' texts were translated
                return members, seq2seq.write(self.model, some, source, target, most, **options)

        for together in seq2seq.batches([len(row) for row in rows], self.device, num_beams, decoder.vocab_size):
            for members, made in in_halves(write, together):
                for index, row in zip(members, made, strict=True):
                    found[index] = sentences.text(sentences.written(row), target)
                done += len(members)
                if progress is not None:
                    progress(done)
        answers: list[dict[str, Any]] = [
            {"text": text, "translation": made, "source": source, "target": target}
            for text, made in zip(texts, found, strict=True)
        ]
        return marked(answers, cut) if truncate else answers

    def direction(self, source: str | None, target: str | None) -> tuple[str | None, str | None]:
        """Source and target, as asked or as the model's one direction that fits says.

        Raises:
            InputError: none fits, or several do.
        """
        config = self.model.config
        known = self.directions
        fit = [(a, b) for a, b in known if source in (None, a) and target in (None, b)]
        if known and not fit:
            config.check_direction(source, target)
        if len(fit) == 1:
            source, target = fit[0]
        elif len(fit) > 1:
            sides = [{pair[side] for pair in fit} for side in (0, 1)]
            source, target = (next(iter(side)) if len(side) == 1 else None for side in sides)
            missing = "target" if target is None else "source"
            if None in (source, target):
                pairs = ", ".join(f"{a}-{b}" for a, b in fit)
                raise InputError(f"{missing} is missing: this model translates {pairs}")
        config.source_side(source)
        config.target_side(target)
        return source, target

    def _sources(
        self, sentences: Sentences, texts: Sequence[str], source: str | None, truncate: bool
    ) -> tuple[list[Ids], set[int]]:
        """Checked rows of the texts, and which of them were cut."""
        first = self.model.config.source_side(source).start
        rows, cut = [], set()
        for number, ids in enumerate(sentences.encode(list(texts), source)):
            if not len(ids):
                raise InputError(f"texts[{number}]: the text has no token that the model knows")
            if not sentences.fits(ids):
                if not truncate:
                    raise InputError(
                        f"texts[{number}]: {len(ids) + 2:,} tokens with the special ones, the model's limit is "
                        f"{self.max_tokens:,}: translate it sentence by sentence, or cut it with truncate=True (--truncate)"
                    )
                ids = ids[: self.max_tokens - 2]
                cut.add(number)
            rows.append(sentences.row(ids, first))
        return rows, cut
