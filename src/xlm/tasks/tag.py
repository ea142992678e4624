"""Labels of words: entities as spans, parts of speech as tags. Texts of any length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from xlm.errors import InputError
from xlm.tasks.base import Features, Item, Scores, Task, before_first, need_finite, softmax
from xlm.tasks.examples import TaggedExample, is_bio, spans_of
from xlm.tasks.windows import most_context, windows
from xlm.tasks.words import split_words
from xlm.tokenizers.align import IGNORED, align_labels


@dataclass(frozen=True)
class Tag(Task):
    """One of ``labels`` a word, learnt and read on the word's first token (``policy``)."""

    labels: tuple[str, ...] = ()
    policy: Literal["first", "last", "all"] = "first"
    overlap: int = 32
    """Tokens that neighbouring windows of a long text share."""

    name: ClassVar[str] = "tag"
    head: ClassVar[str] = "ForTokenClassification"

    @property
    def metric(self) -> str:  # type: ignore[override]
        return self.scores[0]

    @property
    def scores(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("f1", "precision", "recall", "accuracy") if is_bio(self.labels) else ("accuracy",)

    @classmethod
    def of(cls, examples: Sequence[TaggedExample], labels: Sequence[str] | None = None) -> Tag:
        """The task that tagged examples describe: ``O`` first, then the tags in alphabetical order.

        Raises:
            InputError: fewer than two tags.
        """
        found = {tag for example in examples for tag in example.tags or ()}
        chosen = tuple(labels) if labels else tuple(sorted(found, key=lambda tag: (tag != "O", tag[2:], tag)))
        if len(chosen) < 2:
            raise InputError(f"tags are {list(chosen)}: a tagger needs at least two")
        return cls(chosen)

    @classmethod
    def from_config(cls, config: Any) -> Tag:
        """The task of a trained tagger."""
        return cls(tuple(config.id2label[index] for index in range(config.num_labels)))

    def features(
        self, examples: Sequence[TaggedExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """Windows of at most ``max_tokens``; targets are a label index a token, -100 where a token has none.

        Raises:
            InputError: a tag that is not among the task's, or another number of tags than words.
        """
        found = Features()
        if not examples:
            return found
        index = {label: number for number, label in enumerate(self.labels)}
        # A word of white space alone, or an empty one, has no token; the aligner keeps its place.
        encoded = tokenizer(
            [list(e.words) for e in examples], is_split_into_words=True, add_special_tokens=False, verbose=False
        )
        special = tokenizer.num_special_tokens_to_add()
        offset, size = before_first(tokenizer), max_tokens - special
        for number, example in enumerate(examples):
            ids, words = encoded["input_ids"][number], encoded.word_ids(number)
            labels: list[int] | None = None
            if training:
                where = f"example {example.id or number}"
                labels = align_labels(
                    words, self._targets(example, index, where), self.policy, encoded.tokens(number), IGNORED
                )
            spans = windows(len(ids), size, min(self.overlap, size - 1))
            found.details.append((words, encoded.tokens(number), spans, offset))
            found.lengths.append(len(ids) + special)
            for place, (start, end) in enumerate(spans):
                row = np.asarray(tokenizer.build_inputs_with_special_tokens(ids[start:end]), np.int64)
                target = None
                if labels is not None:
                    target = np.full(len(row), IGNORED, np.int64)
                    # A token that two windows share is learnt once.
                    fresh = 0 if place == 0 else spans[place - 1][1] - start
                    target[offset + fresh : offset + end - start] = labels[start + fresh : end]
                found.items.append(Item(number, (row,), target, start))
        return found

    @staticmethod
    def _targets(example: TaggedExample, index: Mapping[str, int], where: str) -> list[int]:
        if example.tags is None or len(example.tags) != len(example.words):
            count = 0 if example.tags is None else len(example.tags)
            raise InputError(f"{where}: {count} tags for {len(example.words)} words: they must be as many")
        for tag in example.tags:
            if tag not in index:
                raise InputError(f"{where}: tag is {tag!r}: it must be one of {', '.join(index)}")
        return [index[tag] for tag in example.tags]

    def answers(self, examples: Sequence[TaggedExample], features: Features, scores: Sequence[Scores]) -> list[Any]:
        """For every example a list of ``(tag, probability)``, one a word; a word without a token is ``O`` (or the first
        label) with probability 0."""
        need_finite(scores)
        fallback = ("O" if "O" in self.labels else self.labels[0], 0.0)
        # Window by window, not word by word: a text may have hundreds of thousands of words.
        of_example: dict[int, list[tuple[Item, list[int], list[float]]]] = {}
        for item, score in zip(features.items, scores, strict=True):
            shares = softmax(score)
            read = item, shares.argmax(-1).tolist(), shares.max(-1).tolist()
            of_example.setdefault(item.example, []).append(read)
        answers = []
        for number, example in enumerate(examples):
            words, tokens, spans, offset = features.details[number]
            found = [fallback] * len(example.words)
            for word, place in _readers(words, tokens, self.policy).items():
                window = most_context(place, spans)
                item, best, share = of_example[number][window]
                at = offset + place - item.start
                found[word] = (self.labels[best[at]], share[at])
            answers.append(found)
        return answers

    def evaluate(self, examples: Sequence[TaggedExample], answers: Sequence[Any]) -> dict[str, float]:
        """conlleval's scores of spans, or the accuracy of plain tags."""
        from xlm.tasks import metrics

        gold = [list(example.tags or ()) for example in examples]
        return metrics.tagging_scores(gold, [[tag for tag, _ in answer] for answer in answers])

    def counts(self, examples: Sequence[TaggedExample]) -> Mapping[str, int]:
        found = Counter(tag for example in examples for tag in example.tags or ())
        return {label: found[label] for label in self.labels}


def _readers(words: Sequence[int | None], tokens: Sequence[str], policy: str) -> dict[int, int]:
    """word -> the token that its tag is read from: the first that carries text, or the last."""
    places: dict[int, list[int]] = {}
    for place, word in enumerate(words):
        if word is not None:
            places.setdefault(word, []).append(place)
    found = {}
    for word, of in places.items():
        full = [place for place in of if tokens[place] != "▁"] or of
        found[word] = full[-1 if policy == "last" else 0]
    return found


def example_of(text: str, language: str | None = None) -> TaggedExample:
    """Running text as words with their places."""
    offsets = tuple(split_words(text))
    return TaggedExample(tuple(text[a:b] for a, b in offsets), None, text, offsets, language)


def spans_in_text(example: TaggedExample, answer: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """``{"start", "end", "text", "label", "probability"}`` of every span, in code points of the text.

    The probability is the mean over the span's words. Words in a list lie in their text joined by single spaces.
    """
    text, offsets = example.text, example.offsets
    if text is None or offsets is None:
        text, offsets = " ".join(example.words), _spaced(example.words)
    found = []
    for first, after, label in spans_of([tag for tag, _ in answer]):
        start, end = offsets[first][0], offsets[after - 1][1]
        probability = sum(p for _, p in answer[first:after]) / (after - first)
        found.append({"start": start, "end": end, "text": text[start:end], "label": label, "probability": probability})
    return found


def _spaced(words: Sequence[str]) -> tuple[tuple[int, int], ...]:
    offsets, start = [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    return tuple(offsets)
