"""Answers to questions as spans of a context of any length, or the statement that the context has none.

A long context becomes overlapping windows. The spans of all windows compete: a span's score is the sum of its ends'
logits, that of "no answer" the same sum at the first token (``<s>``), the lowest of all windows, as in SQuAD 2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xlm.errors import InputError
from xlm.tasks.base import Features, Item, Scores, Task, bare, before_second, need_finite, softmax
from xlm.tasks.examples import QuestionExample, Span
from xlm.tasks.windows import windows


@dataclass(frozen=True)
class Answer(Task):
    """How contexts are cut, and how answers are chosen."""

    stride: int = 128
    """Tokens that neighbouring windows share."""
    max_question: int = 64
    """Tokens of a question; what is longer is cut."""
    max_answer: int = 30
    """Tokens of an answer."""
    n_best: int = 20
    """Spans that share the probability, with "no answer" where that is allowed."""
    unanswerable: bool = False
    """Whether "no answer" is an answer."""
    threshold: float = 0.0
    """"No answer" must score higher than the best span by more than this."""

    name: ClassVar[str] = "answer"
    head: ClassVar[str] = "ForQuestionAnswering"
    metric: ClassVar[str] = "f1"
    scores: ClassVar[tuple[str, ...]] = ("f1", "exact_match")

    def features(
        self, examples: Sequence[QuestionExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """A window an item; targets are (first, last) token of the row, (0, 0) where the window holds no answer.

        While training, windows without the answer are kept only where "no answer" is one.

        Raises:
            InputError: no room is left for the context, or an answer that is not where its offset says.
        """
        found = Features()
        if not examples:
            return found
        questions = bare(tokenizer, [example.question for example in examples])
        contexts = list(dict.fromkeys(example.context for example in examples))
        encoded = tokenizer(contexts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens_of = dict(zip(contexts, zip(encoded["input_ids"], encoded["offset_mapping"], strict=True), strict=True))
        special = tokenizer.num_special_tokens_to_add(True)
        for number, (example, whole) in enumerate(zip(examples, questions, strict=True)):
            question = whole[: self.max_question]
            ids, offsets = tokens_of[example.context]
            offsets = [_trim(example.context, *span) for span in offsets]
            room = max_tokens - special - len(question)
            if room < 1:
                raise InputError(f"max_tokens is {max_tokens}: a question of {len(question)} tokens leaves no room")
            spans = windows(len(ids), room, min(self.stride, room - 1))
            gold = self._gold(example, offsets, number) if training else None
            at = before_second(tokenizer, len(question))
            found.details.append((offsets, spans, at))
            found.lengths.append(len(whole) + len(ids) + special)
            found.cut |= {number} if len(whole) > len(question) else set()
            for start, end in spans:
                target = None
                if training:
                    inside = gold is not None and start <= gold[0] and gold[1] < end
                    if not inside and not self.unanswerable:
                        continue
                    target = (at + gold[0] - start, at + gold[1] - start) if inside and gold else (0, 0)
                row = np.asarray(tokenizer.build_inputs_with_special_tokens(question, list(ids[start:end])), np.int64)
                found.items.append(Item(number, (row,), target, start))
        return found

    @staticmethod
    def _gold(example: QuestionExample, offsets: Sequence[Span], number: int) -> Span | None:
        """The first and last token of the first answer."""
        if example.impossible or not example.answers:
            return None
        answer = example.answers[0]
        start, end = answer.start, answer.start + len(answer.text)
        if example.context[start:end] != answer.text:
            raise InputError(
                f"example {example.id or number}: the answer {answer.text[:40]!r} is not at {start} of the context, "
                f"where {example.context[start:end][:40]!r} stands"
            )
        inside = [place for place, (low, high) in enumerate(offsets) if low < end and high > start]
        return (inside[0], inside[-1]) if inside else None

    def answers(self, examples: Sequence[QuestionExample], features: Features, scores: Sequence[Scores]) -> list[Any]:
        """For every example up to ``n_best`` ``{"start", "end", "text", "probability"}``, best first.

        "No answer" is the empty text from 0 to 0. Text and offsets are those of the example's context.
        """
        need_finite(scores)
        best: list[dict[Span, float]] = [{} for _ in examples]
        nothing = [np.inf] * len(examples)
        for item, score in zip(features.items, scores, strict=True):
            offsets, spans, at = features.details[item.example]
            end = next(high for low, high in spans if low == item.start)
            nothing[item.example] = min(nothing[item.example], float(score[0, 0] + score[0, 1]))
            kept = best[item.example]
            for first, last, value in self._top(score[at : at + end - item.start]):
                span = offsets[item.start + first][0], offsets[item.start + last][1]
                if span[0] < span[1] and value > kept.get(span, -np.inf):
                    kept[span] = value
        return [
            self._ranked(example.context, kept, none)
            for example, kept, none in zip(examples, best, nothing, strict=True)
        ]

    def _top(self, score: Scores) -> list[tuple[int, int, float]]:
        """The best (first, last, score) of one window's context; score (tokens, 2)."""
        length = len(score)
        if not length:
            return []
        reach = min(self.max_answer, length)
        ends = np.pad(score[:, 1].astype(np.float64), (0, reach), constant_values=-np.inf)
        # (tokens, reach): the sum for an answer that begins at the row's token and has column + 1 tokens.
        table = score[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, reach)[:length]
        count = min(self.n_best, table.size)
        chosen = np.argpartition(-table, count - 1, axis=None)[:count]
        firsts, sizes = np.unravel_index(chosen, table.shape)
        return [
            (int(first), int(first + size), float(table[first, size]))
            for first, size in zip(firsts, sizes, strict=True)
            if np.isfinite(table[first, size])
        ]

    def _ranked(self, context: str, spans: dict[Span, float], none: float) -> list[dict[str, Any]]:
        ranked = sorted(spans.items(), key=lambda pair: (-pair[1], pair[0]))[: self.n_best]
        entries: list[tuple[Span, float]] = list(ranked)
        if self.unanswerable and np.isfinite(none):
            place = sum(value + self.threshold >= none for _, value in ranked)
            entries.insert(place, ((0, 0), none))
        if not entries:
            return [{"start": 0, "end": 0, "text": "", "probability": 1.0}]
        probabilities = softmax(np.asarray([value for _, value in entries]))
        return [
            {"start": start, "end": end, "text": context[start:end], "probability": float(probability)}
            for ((start, end), _), probability in zip(entries, probabilities, strict=True)
        ]

    def evaluate(self, examples: Sequence[QuestionExample], answers: Sequence[Any]) -> dict[str, float]:
        """SQuAD's exact match and F1, in percent; examples of several languages each by the rules of theirs."""
        from xlm.tasks import metrics

        totals = {"exact_match": 0.0, "f1": 0.0}
        for language in sorted({example.language or "" for example in examples}):
            chosen = [n for n, example in enumerate(examples) if (example.language or "") == language]
            gold = [[a.text for a in examples[n].answers] if not examples[n].impossible else [] for n in chosen]
            texts = [answers[n][0]["text"] for n in chosen]
            for key, value in metrics.answer_scores(gold, texts, language or None).items():
                totals[key] = totals.get(key, 0.0) + value * len(chosen) / len(examples)
        return totals


def _trim(text: str, start: int, end: int) -> Span:
    """The span without the white space at its ends, which SentencePiece counts to the word behind it."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
