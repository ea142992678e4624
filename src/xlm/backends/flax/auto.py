"""Flax classes that choose the family by a checkpoint's config."""

from __future__ import annotations

from functools import partial

from xlm.backends.flax.models import MODELS
from xlm.families.automodel import AutoClass, of_families


class _FlaxAuto(AutoClass):
    """Abstract: of this framework."""

    models = MODELS


_heads = partial(of_families, "Flax")


class FlaxAutoModel(_FlaxAuto):
    """The model without a head."""

    classes = _heads("Model", "Model")


class FlaxAutoModelForMaskedLM(_FlaxAuto):
    """The masked language model."""

    classes = _heads("WithLMHeadModel", "ForMaskedLM")


class FlaxAutoModelForCausalLM(_FlaxAuto):
    """The left-to-right language model."""

    classes = _heads("WithLMHeadModel", "ForCausalLM")


class FlaxAutoModelForSequenceClassification(_FlaxAuto):
    """The classifier of whole texts."""

    classes = _heads("ForSequenceClassification", "ForSequenceClassification")


class FlaxAutoModelForTokenClassification(_FlaxAuto):
    """The classifier of tokens."""

    classes = _heads("ForTokenClassification", "ForTokenClassification")


class FlaxAutoModelForQuestionAnswering(_FlaxAuto):
    """The extractive question answerer; for XLM the simple one."""

    classes = _heads("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class FlaxAutoModelForMultipleChoice(_FlaxAuto):
    """The scorer of choices."""

    classes = _heads("ForMultipleChoice", "ForMultipleChoice")
