"""XLM-RoBERTa-XL and XXL (Goyal et al. 2021, arXiv:2105.00572): XLM-RoBERTa with pre-norm layers and a final norm."""

from __future__ import annotations

from typing import Any, ClassVar

from xlm.families import xlm_roberta
from xlm.families.registry import Family, register
from xlm.families.spec import EncoderSpec


class XLMRobertaXLConfig(xlm_roberta.RobertaLikeConfig):
    """Configuration of XLM-RoBERTa-XL models; the defaults are those of XL (3.5 billion parameters)."""

    model_type = "xlm-roberta-xl"
    defaults: ClassVar[dict[str, Any]] = {
        **xlm_roberta.XLMRobertaConfig.defaults,
        "vocab_size": 250880,
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 10240,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }


def spec(config: Any) -> EncoderSpec:
    """The architecture of an XLM-RoBERTa-XL config."""
    return xlm_roberta.spec(config, norm_order="pre", embedding_norm=False, final_norm=True, ffn_dropout=0.0)


# In memory the norms carry XLM-RoBERTa's names: the one before attention is attention.output.LayerNorm, the one before
# the feed-forward block is output.LayerNorm (fairseq pairs them in the same way).
# ours                                                theirs (relative to the encoder)
ENCODER_NAMES = """
embeddings.word_embeddings.weight                     embeddings.word_embeddings.weight
embeddings.position_embeddings.weight                 embeddings.position_embeddings.weight
embeddings.token_type_embeddings.weight               embeddings.token_type_embeddings.weight
encoder.layer.{}.attention.self.query.{}              encoder.layer.{}.attention.self.query.{}
encoder.layer.{}.attention.self.key.{}                encoder.layer.{}.attention.self.key.{}
encoder.layer.{}.attention.self.value.{}              encoder.layer.{}.attention.self.value.{}
encoder.layer.{}.attention.self.distance_embedding.{} encoder.layer.{}.attention.self.distance_embedding.{}
encoder.layer.{}.attention.output.dense.{}            encoder.layer.{}.attention.output.dense.{}
encoder.layer.{}.attention.output.LayerNorm.{}        encoder.layer.{}.attention.self_attn_layer_norm.{}
encoder.layer.{}.crossattention.self.query.{}         encoder.layer.{}.crossattention.self.query.{}
encoder.layer.{}.crossattention.self.key.{}           encoder.layer.{}.crossattention.self.key.{}
encoder.layer.{}.crossattention.self.value.{}         encoder.layer.{}.crossattention.self.value.{}
encoder.layer.{}.crossattention.output.dense.{}       encoder.layer.{}.crossattention.output.dense.{}
encoder.layer.{}.crossattention.output.LayerNorm.{}   encoder.layer.{}.crossattention.self_attn_layer_norm.{}
encoder.layer.{}.intermediate.dense.{}                encoder.layer.{}.intermediate.dense.{}
encoder.layer.{}.output.dense.{}                      encoder.layer.{}.output.dense.{}
encoder.layer.{}.output.LayerNorm.{}                  encoder.layer.{}.LayerNorm.{}
encoder.LayerNorm.{}                                  encoder.LayerNorm.{}
pooler.dense.{}                                       pooler.dense.{}
"""

FAMILY = register(
    Family(
        model_type="xlm-roberta-xl",
        class_prefix="XLMRobertaXL",
        config_class=XLMRobertaXLConfig,
        spec=spec,
        theirs_prefix="roberta",
        encoder_names=ENCODER_NAMES,
        head_names=xlm_roberta.HEAD_NAMES,
        tokenizer_class="XLMRobertaTokenizer",
        special_ids={"pad_token_id": "pad", "bos_token_id": "bos", "eos_token_id": "eos"},
        token_loss_masks_padding=True,
        published={
            "facebook/xlm-roberta-xl": {},
            "facebook/xlm-roberta-xxl": {"hidden_size": 4096, "num_hidden_layers": 48, "intermediate_size": 16384},
        },
    )
)
