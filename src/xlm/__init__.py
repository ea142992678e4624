"""XLM, XLM-R and XLM-R XL: tokenize, pretrain, fine-tune and run cross-lingual encoders.

This is the front door. Every public name is listed in ``_PUBLIC`` beside the module that defines it and is loaded the
first time it is used, so ``import xlm`` is quick and needs neither PyTorch nor any other framework. ``__init__.pyi``
says the same to editors and type checkers; a test holds the two equal.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC: dict[str, tuple[str, ...]] = {
    "xlm.errors": (
        "XLMError",
        "InputError",
        "ArgumentError",
        "ConfigError",
        "CheckpointError",
        "DataError",
        "OutputError",
        "QualityError",
        "MissingExtraError",
    ),
    "xlm.families": (
        "PretrainedConfig",
        "AutoConfig",
        "EncoderDecoderConfig",
        "XLMConfig",
        "XLMRobertaConfig",
        "XLMRobertaXLConfig",
    ),
    "xlm.tokenizers": (
        "AddedToken",
        "AutoTokenizer",
        "BatchEncoding",
        "XLMTokenizer",
        "XLMRobertaTokenizer",
        "XLMRobertaTokenizerFast",
        "train_bpe",
        "train_sentencepiece",
    ),
    "xlm.batches.batch": ("Batch",),
    "xlm.outputs": (
        "ModelOutput",
        "BaseModelOutput",
        "BaseModelOutputWithPoolingAndCrossAttentions",
        "TFBaseModelOutputWithPoolingAndCrossAttentions",
        "CausalLMOutputWithCrossAttentions",
        "MaskedLMOutput",
        "Seq2SeqLMOutput",
        "SequenceClassifierOutput",
        "TokenClassifierOutput",
        "QuestionAnsweringModelOutput",
        "MultipleChoiceModelOutput",
        "XLMForQuestionAnsweringOutput",
    ),
    "xlm.checkpoints.trim": ("TrimReport", "trim"),
    "xlm.backends.torch.pretrained": ("PreTrainedModel", "load_reference_state_dict"),
    "xlm.backends.torch.models": (
        "XLMModel",
        "XLMWithLMHeadModel",
        "XLMForSequenceClassification",
        "XLMForMultipleChoice",
        "XLMForTokenClassification",
        "XLMForQuestionAnsweringSimple",
        "XLMForQuestionAnswering",
        "XLMRobertaModel",
        "XLMRobertaForCausalLM",
        "XLMRobertaForMaskedLM",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaForMultipleChoice",
        "XLMRobertaForTokenClassification",
        "XLMRobertaForQuestionAnswering",
        "XLMRobertaXLModel",
        "XLMRobertaXLForCausalLM",
        "XLMRobertaXLForMaskedLM",
        "XLMRobertaXLForSequenceClassification",
        "XLMRobertaXLForMultipleChoice",
        "XLMRobertaXLForTokenClassification",
        "XLMRobertaXLForQuestionAnswering",
    ),
    "xlm.backends.torch.encoder_decoder": ("EncoderDecoderModel",),
    "xlm.backends.torch.auto": (
        "AutoModel",
        "AutoModelForMaskedLM",
        "AutoModelForCausalLM",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
        "AutoModelForQuestionAnswering",
        "AutoModelForMultipleChoice",
        "AutoModelForSeq2SeqLM",
    ),
    "xlm.backends.flax.pretrained": ("FlaxPreTrainedModel",),
    "xlm.backends.flax.models": (
        "FlaxXLMModel",
        "FlaxXLMWithLMHeadModel",
        "FlaxXLMForSequenceClassification",
        "FlaxXLMForMultipleChoice",
        "FlaxXLMForTokenClassification",
        "FlaxXLMForQuestionAnsweringSimple",
        "FlaxXLMForQuestionAnswering",
        "FlaxXLMRobertaModel",
        "FlaxXLMRobertaForCausalLM",
        "FlaxXLMRobertaForMaskedLM",
        "FlaxXLMRobertaForSequenceClassification",
        "FlaxXLMRobertaForMultipleChoice",
        "FlaxXLMRobertaForTokenClassification",
        "FlaxXLMRobertaForQuestionAnswering",
        "FlaxXLMRobertaXLModel",
        "FlaxXLMRobertaXLForCausalLM",
        "FlaxXLMRobertaXLForMaskedLM",
        "FlaxXLMRobertaXLForSequenceClassification",
        "FlaxXLMRobertaXLForMultipleChoice",
        "FlaxXLMRobertaXLForTokenClassification",
        "FlaxXLMRobertaXLForQuestionAnswering",
    ),
    "xlm.backends.flax.auto": (
        "FlaxAutoModel",
        "FlaxAutoModelForMaskedLM",
        "FlaxAutoModelForCausalLM",
        "FlaxAutoModelForSequenceClassification",
        "FlaxAutoModelForTokenClassification",
        "FlaxAutoModelForQuestionAnswering",
        "FlaxAutoModelForMultipleChoice",
    ),
    "xlm.backends.flax.outputs": (
        "FlaxBaseModelOutput",
        "FlaxBaseModelOutputWithPoolingAndCrossAttentions",
        "FlaxCausalLMOutputWithCrossAttentions",
        "FlaxMaskedLMOutput",
        "FlaxSequenceClassifierOutput",
        "FlaxTokenClassifierOutput",
        "FlaxQuestionAnsweringModelOutput",
        "FlaxMultipleChoiceModelOutput",
        "FlaxXLMForQuestionAnsweringOutput",
    ),
    "xlm.backends.keras.pretrained": ("TFPreTrainedModel",),
    "xlm.backends.keras.models": (
        "TFXLMModel",
        "TFXLMWithLMHeadModel",
        "TFXLMForSequenceClassification",
        "TFXLMForMultipleChoice",
        "TFXLMForTokenClassification",
        "TFXLMForQuestionAnsweringSimple",
        "TFXLMRobertaModel",
        "TFXLMRobertaForCausalLM",
        "TFXLMRobertaForMaskedLM",
        "TFXLMRobertaForSequenceClassification",
        "TFXLMRobertaForMultipleChoice",
        "TFXLMRobertaForTokenClassification",
        "TFXLMRobertaForQuestionAnswering",
        "TFXLMRobertaXLModel",
        "TFXLMRobertaXLForCausalLM",
        "TFXLMRobertaXLForMaskedLM",
        "TFXLMRobertaXLForSequenceClassification",
        "TFXLMRobertaXLForMultipleChoice",
        "TFXLMRobertaXLForTokenClassification",
        "TFXLMRobertaXLForQuestionAnswering",
    ),
    "xlm.backends.keras.auto": (
        "TFAutoModel",
        "TFAutoModelForMaskedLM",
        "TFAutoModelForCausalLM",
        "TFAutoModelForSequenceClassification",
        "TFAutoModelForTokenClassification",
        "TFAutoModelForQuestionAnswering",
        "TFAutoModelForMultipleChoice",
    ),
    "xlm.inference.engine": (
        "Engine",
        "load",
    ),
    "xlm.training.finetune": ("finetune",),
    "xlm.evaluation.run": ("evaluate",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
# What a missing package is called in the extras: the name of the import, then the name of the extra.
_EXTRA_OF = {"torch": "torch", "jax": "jax", "flax": "jax", "tensorflow": "tf", "keras": "tf", "matplotlib": "train"}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'xlm' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        from xlm.errors import MissingExtraError

        raise MissingExtraError(f"xlm.{name}", error.name or "", extra) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
