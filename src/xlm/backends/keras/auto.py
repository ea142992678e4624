"""Classes that choose the family by a checkpoint's config."""

from __future__ import annotations

from functools import partial

from xlm.backends.keras.models import MODELS
from xlm.families.automodel import AutoClass, of_families


class _Auto(AutoClass):
    """Abstract: of this framework."""

    models = MODELS


_heads = partial(of_families, "TF")


class TFAutoModel(_Auto):
    """The model without a head."""

    classes = _heads("Model", "Model")


class TFAutoModelForMaskedLM(_Auto):
    """The masked language model."""

    classes = _heads("WithLMHeadModel", "ForMaskedLM")


class TFAutoModelForCausalLM(_Auto):
    """The left-to-right language model."""

    classes = _heads("WithLMHeadModel", "ForCausalLM")


class TFAutoModelForSequenceClassification(_Auto):
    """The classifier of whole texts."""

    classes = _heads("ForSequenceClassification", "ForSequenceClassification")


class TFAutoModelForTokenClassification(_Auto):
    """The classifier of tokens."""

    classes = _heads("ForTokenClassification", "ForTokenClassification")


class TFAutoModelForQuestionAnswering(_Auto):
    """The extractive question answerer."""

    classes = _heads("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class TFAutoModelForMultipleChoice(_Auto):
    """The scorer of choices."""

    classes = _heads("ForMultipleChoice", "ForMultipleChoice")
