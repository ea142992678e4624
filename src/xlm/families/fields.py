"""The keys that every config has, and the rules that values of keys are checked by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Keys that every model of the library's world carries; config.json holds them only where they differ from these values.
BASE_DEFAULTS: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "torch_dtype": None,
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "chunk_size_feed_forward": 0,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "architectures": None,
    "finetuning_task": None,
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
    "problem_type": None,
}

Rule = tuple[str, Callable[[Any], bool]]


def is_int(value: Any) -> bool:
    """Whether a value is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


POSITIVE: Rule = ("an integer of at least 1", lambda v: is_int(v) and v >= 1)
COUNT: Rule = ("an integer of at least 0", lambda v: is_int(v) and v >= 0)
TOKEN_ID: Rule = ("an integer of at least 0 or None", lambda v: v is None or (is_int(v) and v >= 0))
PROBABILITY: Rule = (
    "a number from 0 to 1",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1,
)
OPTIONAL_PROBABILITY: Rule = ("a number from 0 to 1 or None", lambda v: v is None or PROBABILITY[1](v))
NON_NEGATIVE: Rule = (
    "a number of at least 0",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v >= 0,
)
BOOLEAN: Rule = ("true or false", lambda v: isinstance(v, bool))
ACTIVATION: Rule = ("a name or a callable", lambda v: isinstance(v, str) or callable(v))


_MAPPING: Rule = ("a mapping or None", lambda v: isinstance(v, Mapping))
SHAPES: dict[str, Rule] = {
    "architectures": (
        "a list of names or None",
        lambda v: isinstance(v, list | tuple) and all(isinstance(name, str) for name in v),
    ),
    "pruned_heads": _MAPPING,
    "quantization_config": _MAPPING,
    "task_specific_params": _MAPPING,
    "id2lang": _MAPPING,
    "lang2id": (
        "a mapping of languages to ids or None",
        lambda v: isinstance(v, Mapping) and all(isinstance(k, str) and is_int(i) for k, i in v.items()),
    ),
}
"""What is looked into wherever a file has it, whatever the family."""


def one_of(*names: str) -> Rule:
    """The rule that a value is one of ``names``."""
    return ("one of " + ", ".join(names), lambda v: v in names)
