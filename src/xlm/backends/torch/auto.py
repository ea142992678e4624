"""Classes that choose the family by a checkpoint's config."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from xlm.backends.torch.encoder_decoder import EncoderDecoderModel
from xlm.backends.torch.models import MODELS
from xlm.families.automodel import AutoClass, of_families


class _Auto(AutoClass):
    """Abstract: of this framework."""

    models = {**MODELS, "EncoderDecoderModel": EncoderDecoderModel}


_heads = partial(of_families, "")


class AutoModel(_Auto):
    """The model without a head."""

    classes = _heads("Model", "Model")


class AutoModelForMaskedLM(_Auto):
    """The masked language model."""

    classes = _heads("WithLMHeadModel", "ForMaskedLM")


class AutoModelForCausalLM(_Auto):
    """The left-to-right language model."""

    classes = _heads("WithLMHeadModel", "ForCausalLM")


class AutoModelForSequenceClassification(_Auto):
    """The classifier of whole texts."""

    classes = _heads("ForSequenceClassification", "ForSequenceClassification")


class AutoModelForTokenClassification(_Auto):
    """The classifier of tokens."""

    classes = _heads("ForTokenClassification", "ForTokenClassification")


class AutoModelForQuestionAnswering(_Auto):
    """The extractive question answerer; for XLM the simple one."""

    classes = _heads("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class AutoModelForMultipleChoice(_Auto):
    """The scorer of choices."""

    classes = _heads("ForMultipleChoice", "ForMultipleChoice")


class AutoModelForSeq2SeqLM(_Auto):
    """The model that reads one text and writes another."""

    classes: ClassVar[dict[str, str]] = {"encoder-decoder": "EncoderDecoderModel"}
