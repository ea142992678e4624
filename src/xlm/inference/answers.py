"""What an engine answers beside vectors and masks: each task's items run packed, its scores become plain dictionaries.

The conversions are those that training scored the model with (:mod:`xlm.tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.backends.torch.packed import head_scores
from xlm.errors import InputError
from xlm.inference.language import Language
from xlm.inference.reading import Read, Wanted
from xlm.tasks.answer import Answer
from xlm.tasks.base import Features, Item, Scores, bare, before_first
from xlm.tasks.choose import Choose
from xlm.tasks.classify import Classify
from xlm.tasks.examples import ChoiceExample, PairExample, QuestionExample, TaggedExample, TextExample
from xlm.tasks.rerank import Rerank
from xlm.tasks.tag import Tag, example_of, spans_in_text

_PROMPT_TOKENS = 1024
"""Tokens of prompts, padding included, that are continued at once."""
_HEADS = {
    "classify": "a head that classifies texts (…ForSequenceClassification)",
    "rerank": "a head that scores pairs (…ForSequenceClassification with one label or two); to rank by vectors use embed",
    "tag": "a head that classifies tokens (…ForTokenClassification)",
    "answer": "a head that answers questions (…ForQuestionAnswering)",
    "choose": "a head that scores choices (…ForMultipleChoice)",
    "generate": "a language model that looks left only (…ForCausalLM)",
}


def marked(answers: list[dict[str, Any]], cut: set[int]) -> list[dict[str, Any]]:
    """Answers that say of their inputs whether they were cut."""
    return [{**answer, "truncated": number in cut} for number, answer in enumerate(answers)]


def _together(lengths: Sequence[int], room: int, equal: bool) -> Iterator[list[int]]:
    """Indices of prompts that are continued at once: of like (``equal``: of one) length, and a bounded number of tokens. A
    prompt longer than ``room`` has less of it than asked for, and is continued by itself."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        longest = lengths[order[0]]
        count = 1 if longest > room else max(1, _PROMPT_TOKENS // longest)
        if equal:
            count = sum(lengths[index] == longest for index in order[:count])
        yield order[:count]
        del order[:count]


class Answers:
    """The task methods of an engine. With ``truncate`` every answer has ``truncated``: whether its input was cut."""

    model: Any
    tokenizer: Any
    name: str
    max_tokens: int
    tasks: tuple[str, ...]
    batch_invariant: bool
    _read: Callable[[Sequence[Sequence[int]], Wanted], Iterator[Read]]
    _language: Language

    def classify(
        self,
        texts: Sequence[str | tuple[str, str]],
        top_k: int | None = None,
        *,
        truncate: bool = False,
        raw: bool = False,
    ) -> list[dict[str, Any]]:
        """The classes of texts, or of pairs of texts.

        Returns:
            One ``{"text", "labels": [{"label", "probability"}, ...]}`` an input, best first (the ``top_k`` best); ``text``
            is the input, a list of two for a pair. Probabilities add up to one unless the model gives any number of
            labels; with ``raw`` each label has its ``logit`` instead. A model that predicts values returns
            ``{"text", "value"}``.

        Raises:
            InputError: no text or pair, one longer than the model unless ``truncate``, or a model without such a head.
        """
        self._need("classify")
        if top_k is not None:
            _at_least_one("top_k", top_k)
        examples = [_text_or_pair(text, f"texts[{index}]") for index, text in enumerate(_listed(texts, "texts"))]
        task = Classify.from_config(self.model.config)
        features = task.features(examples, self.tokenizer, self.max_tokens)
        self._check_lengths(features, "texts", truncate)
        found = []
        answers = task.answers(examples, features, self._scores(features), raw)
        for example, answer in zip(examples, answers, strict=True):
            shown: Any = example.text if example.pair is None else [example.text, example.pair]
            found.append({"text": shown} | ({"labels": answer[:top_k]} if task.labels else {"value": answer}))
        return marked(found, features.cut) if truncate else found

    def tag(self, texts: Sequence[str | Sequence[str]]) -> list[dict[str, Any]]:
        """Labelled spans of texts of any length (names, parts of speech, ...).

        Args:
            texts: running texts, or lists of words, whose text is then the words with single spaces between.

        Returns:
            One ``{"text", "spans": [{"start", "end", "text", "label", "probability"}, ...]}`` an input. Places are code
            points of the text as it was given; the probability is the mean over the span's words.

        Raises:
            InputError: neither texts nor lists of words, or a model without such a head.
        """
        examples = self._tagged(texts)
        found = []
        for example, answer in zip(examples, self._tags(examples), strict=True):
            text = " ".join(example.words) if example.text is None else example.text
            found.append({"text": text, "spans": spans_in_text(example, answer)})
        return found

    def tag_words(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """One tag a word of every list of words; a word without a letter to read (empty) is ``O``."""
        return [[tag for tag, _ in answer] for answer in self._tags(self._tagged(texts))]

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        top_k: int = 1,
        max_answer_tokens: int = 30,
        stride: int = 64,
        unanswerable: bool = False,
        threshold: float = 0.0,
    ) -> list[dict[str, Any]]:
        """The span of each context that answers its question; contexts may have any length.

        Args:
            questions, contexts: as many of one as of the other.
            top_k: answers a question.
            max_answer_tokens: the longest answer.
            stride: tokens that neighbouring windows of a long context share.
            unanswerable: whether "no answer" is an answer: the empty text from 0 to 0.
            threshold: how much higher than the best span "no answer" must score.

        Returns:
            One ``{"question", "answers": [{"start", "end", "text", "probability"}, ...]}`` a question, best first. Places
            are code points of the context as it was given. The best 20 spans of all windows share the probability.

        Raises:
            InputError: not as many contexts as questions, an impossible option, or a model without such a head.
        """
        self._need("answer")
        asked, given = _listed(questions, "questions"), _listed(contexts, "contexts")
        if len(asked) != len(given):
            raise InputError(f"{len(asked)} questions and {len(given)} contexts: there must be as many")
        for name, value in (("top_k", top_k), ("max_answer_tokens", max_answer_tokens)):
            _at_least_one(name, value)
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 0:
            raise InputError(f"stride is {stride!r}: it must be an integer of at least 0")
        examples = [
            QuestionExample(_text(question, f"questions[{n}]"), _text(context, f"contexts[{n}]"))
            for n, (question, context) in enumerate(zip(asked, given, strict=True))
        ]
        task = Answer(
            stride=stride,
            max_question=min(64, self.max_tokens // 2),
            max_answer=max_answer_tokens,
            n_best=max(20, top_k),
            unanswerable=unanswerable,
            threshold=threshold,
        )
        features = task.features(examples, self.tokenizer, self.max_tokens)
        answers = task.answers(examples, features, self._scores(features, by_token=True))
        return [
            {"question": example.question, "answers": answer[:top_k]}
            for example, answer in zip(examples, answers, strict=True)
        ]

    def choose(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        questions: Sequence[str | None] | None = None,
        truncate: bool = False,
    ) -> list[dict[str, Any]]:
        """Which of its choices fits each prompt.

        Args:
            prompts, choices: a list of choices for every prompt.
            questions: what stands between them: a text, ``cause`` or ``effect`` (COPA), or None.
            truncate: cut what is longer than the model instead of refusing it.

        Returns:
            One ``{"prompt", "best", "probabilities"}`` a prompt; ``best`` counts from 0.

        Raises:
            InputError: fewer than two choices, other numbers of prompts, or a model without such a head.
        """
        self._need("choose")
        given, options = _listed(prompts, "prompts"), _listed(choices, "choices")
        asked = [None] * len(given) if questions is None else _listed(questions, "questions")
        if not len(given) == len(options) == len(asked):
            raise InputError(
                f"{len(given)} prompts, {len(options)} lists of choices, {len(asked)} questions: there must be as many"
            )
        examples = [
            ChoiceExample(
                _text(prompt, f"prompts[{n}]"),
                tuple(_text(one, f"choices[{n}][{k}]") for k, one in enumerate(_listed(of, f"choices[{n}]"))),
                question=question,
            )
            for n, (prompt, of, question) in enumerate(zip(given, options, asked, strict=True))
        ]
        task = Choose()
        features = task.features(examples, self.tokenizer, self.max_tokens)
        self._check_lengths(features, "prompts", truncate)
        answers = task.answers(examples, features, self._scores(features))
        found = [{"prompt": example.prompt, **answer} for example, answer in zip(examples, answers, strict=True)]
        return marked(found, features.cut) if truncate else found

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        *,
        truncate: bool = False,
        raw: bool = False,
    ) -> list[dict[str, Any]]:
        """Documents by how well they fit a query, best first: ``{"index", "score"}``, scores from 0 to 1, ``raw``: logits.

        Raises:
            InputError: a text that is empty or longer than the model, ``top_k`` below 1, or a model that does not score
                pairs.
        """
        self._need("rerank")
        if top_k is not None:
            _at_least_one("top_k", top_k)
        labels = self.model.config.num_labels
        if labels > 2:
            raise InputError(f"{self.name} has {labels} labels: rerank needs {_HEADS['rerank']}")
        given = _listed(documents, "documents")
        if not given:
            return []
        texts = [_text(document, f"documents[{n}]") for n, document in enumerate(given)]
        examples = [PairExample(_text(query, "query"), text) for text in texts]
        task = Rerank()
        features = task.features(examples, self.tokenizer, self.max_tokens)
        self._check_lengths(features, "documents", truncate)
        scores = [score for (score,) in task.answers(examples, features, self._scores(features), raw)]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        found = [{"index": index, "score": score} for index, score in enumerate(scores)]
        found = marked(found, features.cut) if truncate else found
        return [found[index] for index in order[:top_k]]

    def generate(self, texts: Sequence[str], *, max_new_tokens: int = 50, **options: Any) -> list[dict[str, Any]]:
        """Continue texts: ``{"text", "generated"}``; ``generated`` is what follows, without the text.

        Args:
            max_new_tokens: the most tokens to add; the model's end of text ends it earlier.
            options: ``do_sample``, ``temperature``, ``top_k``, ``top_p``, ``num_beams``, ``repetition_penalty``, ``seed``
                and the others of the model's ``generate``.

        Raises:
            InputError: a text that leaves no room, an impossible option, or a model that does not look left only.
        """
        spec = self.model.spec
        if "generate" not in self.tasks or not (spec.is_decoder or spec.causal_only):
            raise InputError(f"{self.name} is a {type(self.model).__name__}: generate needs {_HEADS['generate']}")
        seed = options.pop("seed", None)
        if self._language.number is not None:
            self.model.config.lang_id = self._language.number  # what the model adds to every token that it generates
        begins = before_first(self.tokenizer)
        given = [_text(text, f"texts[{n}]") for n, text in enumerate(_listed(texts, "texts"))]
        prompts = []
        for number, ids in enumerate(bare(self.tokenizer, given)):
            prompt = self.tokenizer.build_inputs_with_special_tokens(list(ids))[: begins + len(ids)]
            if len(prompt) >= self.max_tokens:
                raise InputError(
                    f"texts[{number}]: {len(prompt)} tokens, the model's limit is {self.max_tokens}: no room"
                )
            prompts.append(prompt)
        # What is drawn is drawn for each text from the seed, and what is searched for by itself where bits count.
        room = 0 if self.batch_invariant or seed is not None else self.max_tokens - max_new_tokens
        found = [""] * len(given)
        # A causal-only model would look at padding too.
        for members in _together([len(prompt) for prompt in prompts], room, equal=spec.causal_only):
            rows = [prompts[index] for index in members]
            if seed is not None:
                options["generator"] = torch.Generator(self.model.device).manual_seed(int(seed))
            for index, new in zip(members, self._continued(rows, max_new_tokens, options), strict=True):
                found[index] = self.tokenizer.decode(new, skip_special_tokens=True)
        return [{"text": text, "generated": new} for text, new in zip(given, found, strict=True)]

    def _continued(self, rows: list[list[int]], max_new_tokens: int, options: dict[str, Any]) -> list[list[int]]:
        """What follows rows of ids, which are padded on the left to one length."""
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        if any(len(row) < width for row in rows):
            seen = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
            options = {**options, "attention_mask": torch.tensor(seen, device=self.model.device)}
        made = self.model.generate(ids, max_new_tokens=min(max_new_tokens, self.max_tokens - width), **options)
        return made[:: len(made) // len(rows), width:].tolist()  # of several sequences the first

    # -- what the methods share -------------------------------------------------------------------------------------------

    def _need(self, task: str) -> None:
        if task not in self.tasks:
            raise InputError(f"{self.name} is a {type(self.model).__name__}: {task} needs {_HEADS[task]}")

    def _check_lengths(self, features: Features, name: str, truncate: bool) -> None:
        if truncate:
            return
        for number in sorted(features.cut)[:1]:
            raise InputError(
                f"{name}[{number}]: {features.lengths[number]:,} tokens with the special ones, the model's limit is "
                f"{self.max_tokens:,}: shorten the text, or cut it with truncate=True (--truncate)"
            )

    def _tagged(self, texts: Any) -> list[TaggedExample]:
        self._need("tag")
        found = []
        for number, text in enumerate(_listed(texts, "texts")):
            if isinstance(text, str):
                found.append(example_of(_text(text, f"texts[{number}]")))
            elif isinstance(text, Sequence) and all(isinstance(word, str) for word in text):
                found.append(TaggedExample(tuple(text)))
            else:
                raise InputError(f"texts[{number}] is {type(text).__name__}: a text or a list of words is needed")
        return found

    def _tags(self, examples: list[TaggedExample]) -> list[Any]:
        task = Tag.from_config(self.model.config)
        features = task.features(examples, self.tokenizer, self.max_tokens)
        return task.answers(examples, features, self._scores(features, by_token=True))

    def _scores(self, features: Features, by_token: bool = False) -> list[Scores]:
        """The head's scores of every item: of its first row's tokens, or one row's scores a row of an item."""
        rows = [row for item in features.items for row in item.rows]
        scores: list[Any] = [None] * len(rows)
        # Only rows of special tokens and text; nothing to run is nothing to answer.
        if rows:
            for members, lengths, (made,) in self._read(
                rows,  # type: ignore[arg-type]
                lambda states, lengths, _: [self._head(states, lengths)],
            ):
                parts = np.split(made, np.cumsum(lengths)[:-1]) if by_token else made
                for index, part in zip(members, parts, strict=True):
                    scores[index] = part
        return _of_items(features.items, scores)

    def _head(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """The head's scores of a pack: of all its sequences at once, or of each as if it were alone."""
        if not self.batch_invariant:
            return head_scores(self.model, states, lengths)
        # Copies lie at the same alignment wherever a sequence stood in its pack.
        return torch.cat(
            [
                head_scores(self.model, part.clone(), [length])
                for part, length in zip(states.split(list(lengths)), lengths, strict=True)
            ]
        )


def _of_items(items: Sequence[Item], scores: list[Any]) -> list[Scores]:
    """One array an item; items of several rows (choices) get their rows' single scores side by side."""
    found, at = [], 0
    for item in items:
        count = len(item.rows)
        found.append(scores[at] if count == 1 else np.concatenate(scores[at : at + count]))
        at += count
    return found


def _at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}: it must be an integer of at least 1")


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"{name} is of type {type(values).__name__}: a list is needed")
    return list(values)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} is of type {type(value).__name__}: a text is needed")
    return value


def _text_or_pair(value: Any, where: str) -> TextExample:
    if isinstance(value, str):
        return TextExample(value)
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(side, str) for side in value):
        return TextExample(value[0], value[1])
    raise InputError(f"{where} is of type {type(value).__name__}: a text or a pair of texts is needed")
