"""XLM (Lample and Conneau 2019, arXiv:1901.07291): post-norm, plain positions, languages, padding kept at zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from xlm.errors import ConfigError
from xlm.families.config import PretrainedConfig
from xlm.families.fields import BOOLEAN, COUNT, NON_NEGATIVE, POSITIVE, PROBABILITY, Rule, one_of
from xlm.families.registry import Family, register
from xlm.families.spec import EncoderSpec


class XLMConfig(PretrainedConfig):
    """Configuration of XLM models.

    ``n_words`` is another name of ``vocab_size`` and wins where both are given. The feed-forward width is always
    ``4 * emb_dim``. With ``asm=True`` (adaptive softmax) give ``asm_cutoffs`` and ``asm_div_value`` too.
    """

    model_type = "xlm"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "emb_dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "n_words": "vocab_size",
    }
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 30145,
        "emb_dim": 2048,
        "n_layers": 12,
        "n_heads": 16,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "gelu_activation": True,
        "sinusoidal_embeddings": False,
        "causal": False,
        "asm": False,
        "n_langs": 1,
        "use_lang_emb": True,
        "max_position_embeddings": 512,
        "embed_init_std": 2048**-0.5,
        "layer_norm_eps": 1e-12,
        "init_std": 0.02,
        "bos_index": 0,
        "eos_index": 1,
        "pad_index": 2,
        "unk_index": 3,
        "mask_index": 5,
        "is_encoder": True,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
        "summary_first_dropout": 0.1,
        "start_n_top": 5,
        "end_n_top": 5,
        "mask_token_id": 0,
        "lang_id": 0,
        "pad_token_id": 2,
        "bos_token_id": 0,
    }
    optional = ("asm_cutoffs", "asm_div_value", "summary_last_dropout", "lang2id", "id2lang")
    rules: ClassVar[dict[str, Rule]] = {
        "vocab_size": POSITIVE,
        "emb_dim": POSITIVE,
        "n_layers": COUNT,
        "n_heads": POSITIVE,
        "dropout": PROBABILITY,
        "attention_dropout": PROBABILITY,
        "gelu_activation": BOOLEAN,
        "sinusoidal_embeddings": BOOLEAN,
        "causal": BOOLEAN,
        "asm": BOOLEAN,
        "n_langs": POSITIVE,
        "use_lang_emb": BOOLEAN,
        "max_position_embeddings": POSITIVE,
        "embed_init_std": NON_NEGATIVE,
        "init_std": NON_NEGATIVE,
        "layer_norm_eps": NON_NEGATIVE,
        "bos_index": COUNT,
        "eos_index": COUNT,
        "pad_index": COUNT,
        "unk_index": COUNT,
        "mask_index": COUNT,
        "is_encoder": BOOLEAN,
        "summary_type": one_of("last", "first", "mean", "cls_index", "attn"),
        "summary_first_dropout": PROBABILITY,
        "start_n_top": POSITIVE,
        "end_n_top": POSITIVE,
    }

    def validate(self) -> None:
        super().validate()
        if self.emb_dim % self.n_heads:
            raise ConfigError(f"emb_dim={self.emb_dim}: must be a multiple of n_heads={self.n_heads}")
        if self.pad_index >= self.vocab_size:
            raise ConfigError(f"pad_index={self.pad_index}: must be below vocab_size={self.vocab_size}")
        if self.asm:
            cutoffs, value = getattr(self, "asm_cutoffs", None), getattr(self, "asm_div_value", None)
            if not cutoffs or list(cutoffs) != sorted(set(cutoffs)) or cutoffs[-1] >= self.vocab_size:
                raise ConfigError(
                    f"asm_cutoffs={cutoffs!r}: asm=True needs increasing cutoffs below vocab_size={self.vocab_size}"
                )
            if not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"asm_div_value={value!r}: asm=True needs a number above 0")


def spec(config: Any) -> EncoderSpec:
    """The architecture of an XLM config.

    ``causal=True`` is the language model of the paper; ``is_decoder=True``, with ``add_cross_attention=True``, the decoder
    of its translation models, which in this library is a base key of every family.

    Raises:
        ConfigError: ``is_encoder=False``, which says neither.
    """
    if not config.is_encoder:
        raise ConfigError(
            "is_encoder=False: for left-to-right attention use causal=True, for a decoder of translations is_decoder=True"
        )
    languages = config.n_langs if config.n_langs > 1 and config.use_lang_emb else 0
    return EncoderSpec(
        vocab_size=config.vocab_size,
        hidden_size=config.emb_dim,
        num_layers=config.n_layers,
        num_heads=config.n_heads,
        intermediate_size=4 * config.emb_dim,
        activation="gelu" if config.gelu_activation else "relu",
        pad_id=config.pad_index,
        norm_order="post",
        embedding_norm=True,
        final_norm=False,
        norm_eps=config.layer_norm_eps,
        position_kind="absolute",
        sinusoidal=config.sinusoidal_embeddings,
        max_positions=config.max_position_embeddings,
        position_offset=0,
        positions_skip_padding=False,
        num_token_types=0,
        token_types_from_words=True,
        num_languages=languages,
        is_decoder=config.is_decoder,
        causal_only=config.causal and not config.is_decoder,
        cross_attention=config.add_cross_attention,
        zero_padding=True,
        lengths_make_mask=True,
        embedding_dropout=config.dropout,
        hidden_dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        ffn_dropout=config.dropout,
        init_std=config.init_std,
        embedding_init_std=config.embed_init_std,
        feed_forward_chunk=config.chunk_size_feed_forward,
    )


# ours                                              theirs (relative to the encoder)
ENCODER_NAMES = """
embeddings.word_embeddings.weight                   embeddings.weight
embeddings.position_embeddings.weight               position_embeddings.weight
embeddings.language_embeddings.weight               lang_embeddings.weight
embeddings.LayerNorm.{}                             layer_norm_emb.{}
encoder.layer.{}.attention.self.query.{}            attentions.{}.q_lin.{}
encoder.layer.{}.attention.self.key.{}              attentions.{}.k_lin.{}
encoder.layer.{}.attention.self.value.{}            attentions.{}.v_lin.{}
encoder.layer.{}.attention.output.dense.{}          attentions.{}.out_lin.{}
encoder.layer.{}.attention.output.LayerNorm.{}      layer_norm1.{}.{}
encoder.layer.{}.crossattention.self.query.{}       encoder_attn.{}.q_lin.{}
encoder.layer.{}.crossattention.self.key.{}         encoder_attn.{}.k_lin.{}
encoder.layer.{}.crossattention.self.value.{}       encoder_attn.{}.v_lin.{}
encoder.layer.{}.crossattention.output.dense.{}     encoder_attn.{}.out_lin.{}
encoder.layer.{}.crossattention.output.LayerNorm.{} layer_norm15.{}.{}
encoder.layer.{}.intermediate.dense.{}              ffns.{}.lin1.{}
encoder.layer.{}.output.dense.{}                    ffns.{}.lin2.{}
encoder.layer.{}.output.LayerNorm.{}                layer_norm2.{}.{}
"""

HEAD_NAMES = """
lm_head.decoder.weight                    pred_layer.proj.weight
lm_head.decoder.bias                      pred_layer.proj.bias
lm_head.decoder.head.{}                   pred_layer.proj.head.{}
lm_head.decoder.tail.{}.{}.{}             pred_layer.proj.tail.{}.{}.{}
sequence_summary.summary.{}               sequence_summary.summary.{}
logits_proj.{}                            logits_proj.{}
classifier.{}                             classifier.{}
qa_outputs.start_logits.dense.{}          qa_outputs.start_logits.dense.{}
qa_outputs.end_logits.{}.{}               qa_outputs.end_logits.{}.{}
qa_outputs.answer_class.{}.{}             qa_outputs.answer_class.{}.{}
qa_outputs.{}                             qa_outputs.{}
"""


def _known(ids: Mapping[str, int]) -> dict[str, Any]:
    return {"n_langs": max(ids.values()) + 1, "lang2id": dict(ids), "id2lang": {i: name for name, i in ids.items()}}


def _languages(*names: str) -> dict[str, Any]:
    return _known({name: i for i, name in enumerate(names)})


_XNLI15 = _languages(*["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"])
_1024 = {"emb_dim": 1024, "n_layers": 6, "n_heads": 8}

FAMILY = register(
    Family(
        model_type="xlm",
        class_prefix="XLM",
        config_class=XLMConfig,
        spec=spec,
        theirs_prefix="transformer",
        encoder_names=ENCODER_NAMES,
        head_names=HEAD_NAMES,
        tokenizer_class="XLMTokenizer",
        pooler=False,
        special_ids={
            "pad_index": "pad",
            "bos_index": "bos",
            "eos_index": "eos",
            "pad_token_id": "pad",
            "bos_token_id": "bos",
        },
        languages=_known,
        causal_switch="causal",
        language_model="WithLMHeadModel",
        sentence_start="eos",
        published={
            "FacebookAI/xlm-mlm-en-2048": {"vocab_size": 30145},
            "FacebookAI/xlm-mlm-ende-1024": {**_1024, "vocab_size": 64699, **_languages("de", "en")},
            "FacebookAI/xlm-mlm-enfr-1024": {**_1024, "vocab_size": 64139, **_languages("en", "fr")},
            "FacebookAI/xlm-mlm-enro-1024": {**_1024, "vocab_size": 64592, **_languages("en", "ro")},
            "FacebookAI/xlm-clm-ende-1024": {**_1024, "vocab_size": 64699, **_languages("de", "en")},
            "FacebookAI/xlm-clm-enfr-1024": {**_1024, "vocab_size": 64139, **_languages("en", "fr")},
            "FacebookAI/xlm-mlm-xnli15-1024": {**_1024, "n_layers": 12, "vocab_size": 95000, **_XNLI15},
            "FacebookAI/xlm-mlm-tlm-xnli15-1024": {**_1024, "n_layers": 12, "vocab_size": 95000, **_XNLI15},
            "FacebookAI/xlm-mlm-17-1280": {
                "emb_dim": 1280,
                "n_layers": 16,
                "vocab_size": 200000,
                "use_lang_emb": False,
            },
            "FacebookAI/xlm-mlm-100-1280": {
                "emb_dim": 1280,
                "n_layers": 16,
                "vocab_size": 200000,
                "use_lang_emb": False,
            },
        },
    )
)
