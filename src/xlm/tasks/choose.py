"""Which of several continuations or answers fits a prompt: every choice is scored beside the prompt, the best wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from xlm.errors import InputError
from xlm.tasks.base import Features, Item, Scores, Task, bare, joined, need_finite, softmax
from xlm.tasks.examples import ChoiceExample

# What stands for the one-word questions of COPA and XCOPA (Roemmele et al. 2011 ask so).
QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}


@dataclass(frozen=True)
class Choose(Task):
    """The prompt, with the question behind it where there is one, is the first text of a pair, the choice the second."""

    name: ClassVar[str] = "choose"
    head: ClassVar[str] = "ForMultipleChoice"
    metric: ClassVar[str] = "accuracy"
    scores: ClassVar[tuple[str, ...]] = ("accuracy",)

    def features(
        self, examples: Sequence[ChoiceExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """An item of one row a choice; targets are the index of the right one.

        Raises:
            InputError: fewer than two choices, or a label that is none of them.
        """
        found = Features()
        prompts = iter(bare(tokenizer, [prompt_of(example) for example in examples]))
        choices = iter(bare(tokenizer, [choice for example in examples for choice in example.choices]))
        for number, example in enumerate(examples):
            where = f"example {example.id or number}"
            if len(example.choices) < 2:
                raise InputError(f"{where}: {len(example.choices)} choices: at least two are needed")
            if training and (example.label is None or not 0 <= example.label < len(example.choices)):
                raise InputError(
                    f"{where}: label is {example.label!r}: it must be from 0 to {len(example.choices) - 1}, a choice"
                )
            prompt = next(prompts)
            rows = [joined(tokenizer, prompt, next(choices), max_tokens) for _ in example.choices]
            found.items.append(Item(number, tuple(row for row, _, _ in rows), example.label if training else None))
            found.lengths.append(max(whole for _, whole, _ in rows))
            found.cut |= {number} if any(cut for _, _, cut in rows) else set()
        return found

    def answers(self, examples: Sequence[ChoiceExample], features: Features, scores: Sequence[Scores]) -> list[Any]:
        """``{"best", "probabilities"}``."""
        need_finite(scores)
        found = []
        for score in scores:
            probabilities = softmax(score)
            found.append({"best": int(probabilities.argmax()), "probabilities": probabilities.tolist()})
        return found

    def evaluate(self, examples: Sequence[ChoiceExample], answers: Sequence[Any]) -> dict[str, float]:
        """Accuracy."""
        right = sum(answer["best"] == example.label for example, answer in zip(examples, answers, strict=True))
        return {"accuracy": right / max(len(examples), 1)}


def prompt_of(example: ChoiceExample) -> str:
    """The prompt as the model sees it."""
    question = QUESTIONS.get(example.question or "", example.question)
    return f"{example.prompt} {question}" if question else example.prompt
