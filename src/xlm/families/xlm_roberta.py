"""XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116): post-norm, learned positions that skip padding, no languages.

The file also holds what XLM-RoBERTa-XL shares with it: the keys of the config and the shape of the name table.
"""

from __future__ import annotations

from typing import Any, ClassVar

from xlm.errors import ConfigError
from xlm.families.config import PretrainedConfig
from xlm.families.fields import (
    ACTIVATION,
    BOOLEAN,
    COUNT,
    NON_NEGATIVE,
    OPTIONAL_PROBABILITY,
    POSITIVE,
    PROBABILITY,
    TOKEN_ID,
    Rule,
    one_of,
)
from xlm.families.registry import Family, register
from xlm.families.spec import EncoderSpec

RULES: dict[str, Rule] = {
    "vocab_size": POSITIVE,
    "hidden_size": POSITIVE,
    "num_hidden_layers": COUNT,
    "num_attention_heads": POSITIVE,
    "intermediate_size": POSITIVE,
    "hidden_act": ACTIVATION,
    "hidden_dropout_prob": PROBABILITY,
    "attention_probs_dropout_prob": PROBABILITY,
    "max_position_embeddings": POSITIVE,
    "type_vocab_size": POSITIVE,
    "initializer_range": NON_NEGATIVE,
    "layer_norm_eps": NON_NEGATIVE,
    "pad_token_id": TOKEN_ID,
    "bos_token_id": TOKEN_ID,
    "eos_token_id": ("an id, a list of ids or None", lambda v: v is None or isinstance(v, int | list)),
    "position_embedding_type": one_of("absolute", "relative_key", "relative_key_query"),
    "use_cache": BOOLEAN,
    "classifier_dropout": OPTIONAL_PROBABILITY,
    "chunk_size_feed_forward": COUNT,
}


class RobertaLikeConfig(PretrainedConfig):
    """Checks that XLM-RoBERTa and XLM-RoBERTa-XL share."""

    rules = RULES

    def validate(self) -> None:
        super().validate()
        if self.hidden_size % self.num_attention_heads and not hasattr(self, "embedding_size"):
            raise ConfigError(
                f"hidden_size={self.hidden_size}: must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        for key in ("pad_token_id",):
            value = getattr(self, key)
            if value is not None and value >= self.vocab_size:
                raise ConfigError(f"{key}={value}: must be below vocab_size={self.vocab_size}")


class XLMRobertaConfig(RobertaLikeConfig):
    """Configuration of XLM-RoBERTa models.

    The defaults are those of the documented class; published checkpoints have ``vocab_size=250002``,
    ``max_position_embeddings=514`` (512 usable), ``type_vocab_size=1`` and ``layer_norm_eps=1e-5``.
    """

    model_type = "xlm-roberta"
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "position_embedding_type": "absolute",
        "use_cache": True,
        "classifier_dropout": None,
    }


def spec(config: Any, **changes: Any) -> EncoderSpec:
    """The architecture of an XLM-RoBERTa config; ``changes`` are the fields in which a relative of it differs."""
    pad = 1 if config.pad_token_id is None else config.pad_token_id
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "activation": config.hidden_act,
        "pad_id": pad,
        "norm_order": "post",
        "embedding_norm": True,
        "final_norm": False,
        "norm_eps": config.layer_norm_eps,
        "position_kind": config.position_embedding_type,
        "sinusoidal": False,
        "max_positions": config.max_position_embeddings,
        "position_offset": pad + 1,
        "positions_skip_padding": True,
        "num_token_types": config.type_vocab_size,
        "token_types_from_words": False,
        "num_languages": 0,
        "is_decoder": config.is_decoder,
        "causal_only": False,
        "cross_attention": config.add_cross_attention,
        "zero_padding": False,
        "lengths_make_mask": False,
        "embedding_dropout": config.hidden_dropout_prob,
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "ffn_dropout": config.hidden_dropout_prob,
        "init_std": config.initializer_range,
        "embedding_init_std": config.initializer_range,
        "feed_forward_chunk": config.chunk_size_feed_forward,
    }
    return EncoderSpec(**{**fields, **changes})


# ours                                                theirs (relative to the encoder)
ENCODER_NAMES = """
embeddings.word_embeddings.weight                     embeddings.word_embeddings.weight
embeddings.position_embeddings.weight                 embeddings.position_embeddings.weight
embeddings.token_type_embeddings.weight               embeddings.token_type_embeddings.weight
embeddings.LayerNorm.{}                               embeddings.LayerNorm.{}
encoder.layer.{}.attention.self.query.{}              encoder.layer.{}.attention.self.query.{}
encoder.layer.{}.attention.self.key.{}                encoder.layer.{}.attention.self.key.{}
encoder.layer.{}.attention.self.value.{}              encoder.layer.{}.attention.self.value.{}
encoder.layer.{}.attention.self.distance_embedding.{} encoder.layer.{}.attention.self.distance_embedding.{}
encoder.layer.{}.attention.output.dense.{}            encoder.layer.{}.attention.output.dense.{}
encoder.layer.{}.attention.output.LayerNorm.{}        encoder.layer.{}.attention.output.LayerNorm.{}
encoder.layer.{}.crossattention.self.query.{}         encoder.layer.{}.crossattention.self.query.{}
encoder.layer.{}.crossattention.self.key.{}           encoder.layer.{}.crossattention.self.key.{}
encoder.layer.{}.crossattention.self.value.{}         encoder.layer.{}.crossattention.self.value.{}
encoder.layer.{}.crossattention.output.dense.{}       encoder.layer.{}.crossattention.output.dense.{}
encoder.layer.{}.crossattention.output.LayerNorm.{}   encoder.layer.{}.crossattention.output.LayerNorm.{}
encoder.layer.{}.intermediate.dense.{}                encoder.layer.{}.intermediate.dense.{}
encoder.layer.{}.output.dense.{}                      encoder.layer.{}.output.dense.{}
encoder.layer.{}.output.LayerNorm.{}                  encoder.layer.{}.output.LayerNorm.{}
pooler.dense.{}                                       pooler.dense.{}
"""

HEAD_NAMES = """
lm_head.bias                   lm_head.bias
lm_head.dense.{}               lm_head.dense.{}
lm_head.layer_norm.{}          lm_head.layer_norm.{}
lm_head.decoder.{}             lm_head.decoder.{}
classifier.dense.{}            classifier.dense.{}
classifier.out_proj.{}         classifier.out_proj.{}
classifier.{}                  classifier.{}
qa_outputs.{}                  qa_outputs.{}
"""

_PUBLISHED = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}

FAMILY = register(
    Family(
        model_type="xlm-roberta",
        class_prefix="XLMRoberta",
        config_class=XLMRobertaConfig,
        spec=spec,
        theirs_prefix="roberta",
        encoder_names=ENCODER_NAMES,
        head_names=HEAD_NAMES,
        tokenizer_class="XLMRobertaTokenizer",
        special_ids={"pad_token_id": "pad", "bos_token_id": "bos", "eos_token_id": "eos"},
        published={
            "FacebookAI/xlm-roberta-base": _PUBLISHED,
            "FacebookAI/xlm-roberta-large": {
                **_PUBLISHED,
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
            },
        },
    )
)
