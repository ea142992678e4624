"""Which tensors a model has, with their shapes, computed from its config alone: what a file is held against."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from xlm.checkpoints.published import PREFIX, sides_of
from xlm.families.config import PretrainedConfig
from xlm.families.registry import FAMILIES, family_of
from xlm.families.spec import EncoderSpec

Shape = tuple[int, ...]
_HEADS = (
    *("ForCausalLM", "ForMaskedLM", "WithLMHeadModel", "ForSequenceClassification", "ForTokenClassification"),
    *("ForQuestionAnsweringSimple", "ForQuestionAnswering", "ForMultipleChoice", "Model"),
)
# What an encoder-decoder with shared embeddings has once.
_TABLES = tuple(f"{PREFIX}embeddings.{table}_embeddings." for table in ("word", "position", "token_type", "language"))


def head_of(architecture: str | None) -> str:
    """What a class name says after the family's: ``ForMaskedLM``; ``Model`` for an encoder or an unknown name."""
    prefixes = sorted((family.class_prefix for family in FAMILIES.values()), key=len, reverse=True)
    name = architecture or ""
    rest = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), "")
    return rest if rest in _HEADS else "Model"


def expected_shapes(config: PretrainedConfig, architecture: str | None = None) -> dict[str, Shape]:
    """Our full name -> shape of every tensor that a saved model has; tied copies are not tensors of their own.

    Args:
        config: the model's config.
        architecture: the class; the config's first one unless given. ``XLMRobertaModel`` counts its pooler.

    An encoder-decoder has the tensors of both sides behind ``encoder.`` and ``decoder.``, without a pooler, and shared
    tables once.
    """
    if config.is_composition:
        return _both(config)
    family = family_of(config)
    spec = family.spec(config)
    head = head_of(architecture or next(iter(config.architectures or ()), None))
    shapes = {PREFIX + name: shape for name, shape in _encoder(spec)}
    if family.pooler and head in ("Model", "ForMultipleChoice"):
        shapes |= {PREFIX + name: shape for name, shape in _linear("pooler.dense", spec.hidden_size, spec.hidden_size)}
    shapes.update(_roberta_head(config, spec, head) if family.pooler else _xlm_head(config, spec, head))
    return shapes


def _both(config: Any) -> dict[str, Shape]:
    shapes = {}
    for side in sides_of(config):
        for name, shape in expected_shapes(side.config, side.architecture).items():
            shared = config.share_embeddings and side.prefix == "decoder." and name.startswith(_TABLES)
            if not shared and not name.startswith(PREFIX + "pooler."):
                shapes[side.prefix + name] = shape
    return shapes


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, size: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _encoder(spec: EncoderSpec) -> Iterator[tuple[str, Shape]]:
    size = spec.hidden_size
    tables = {
        "word": spec.vocab_size,
        "position": spec.max_positions,
        "token_type": spec.num_token_types,
        "language": spec.num_languages,
    }
    yield from ((f"embeddings.{name}_embeddings.weight", (rows, size)) for name, rows in tables.items() if rows)
    if spec.embedding_norm:
        yield from _norm("embeddings.LayerNorm", size)
    for number in range(spec.num_layers):
        layer = f"encoder.layer.{number}"
        for block in ("attention", "crossattention") if spec.cross_attention else ("attention",):
            for part in ("query", "key", "value"):
                yield from _linear(f"{layer}.{block}.self.{part}", size, size)
            if spec.position_kind != "absolute" and block == "attention":
                yield f"{layer}.{block}.self.distance_embedding.weight", (2 * spec.max_positions - 1, spec.head_size)
            yield from _linear(f"{layer}.{block}.output.dense", size, size)
            yield from _norm(f"{layer}.{block}.output.LayerNorm", size)
        yield from _linear(f"{layer}.intermediate.dense", spec.intermediate_size, size)
        yield from _linear(f"{layer}.output.dense", size, spec.intermediate_size)
        yield from _norm(f"{layer}.output.LayerNorm", size)
    if spec.final_norm:
        yield from _norm("encoder.LayerNorm", size)


def _roberta_head(config: Any, spec: EncoderSpec, head: str) -> Iterator[tuple[str, Shape]]:
    size, labels = spec.hidden_size, config.num_labels
    if head in ("ForCausalLM", "ForMaskedLM"):
        yield "lm_head.bias", (spec.vocab_size,)
        yield from _linear("lm_head.dense", size, size)
        yield from _norm("lm_head.layer_norm", size)
        if not config.tie_word_embeddings:
            yield "lm_head.decoder.weight", (spec.vocab_size, size)
    elif head == "ForSequenceClassification":
        yield from _linear("classifier.dense", size, size)
        yield from _linear("classifier.out_proj", labels, size)
    elif head in ("ForTokenClassification", "ForMultipleChoice"):
        yield from _linear("classifier", 1 if head == "ForMultipleChoice" else labels, size)
    elif head == "ForQuestionAnswering":
        yield from _linear("qa_outputs", labels, size)


def _xlm_head(config: Any, spec: EncoderSpec, head: str) -> Iterator[tuple[str, Shape]]:
    size, labels = spec.hidden_size, config.num_labels
    if head == "WithLMHeadModel" and config.asm:
        cutoffs = [*config.asm_cutoffs, spec.vocab_size]
        yield from _linear("lm_head.decoder.head", cutoffs[0] + len(cutoffs) - 1, size)
        for number, (low, high) in enumerate(pairwise(cutoffs)):
            inner = int(size // config.asm_div_value ** (number + 1))
            yield from _linear(f"lm_head.decoder.tail.{number}.0", inner, size, bias=False)
            yield from _linear(f"lm_head.decoder.tail.{number}.1", high - low, inner, bias=False)
    elif head == "WithLMHeadModel":
        yield "lm_head.decoder.bias", (spec.vocab_size,)
        if not config.tie_word_embeddings:
            yield "lm_head.decoder.weight", (spec.vocab_size, size)
    elif head in ("ForSequenceClassification", "ForMultipleChoice"):
        if config.summary_use_proj:
            to_labels = config.summary_proj_to_labels and labels > 0
            yield from _linear("sequence_summary.summary", labels if to_labels else size, size)
        if head == "ForMultipleChoice":
            yield from _linear("logits_proj", 1, labels)
    elif head == "ForTokenClassification":
        yield from _linear("classifier", labels, size)
    elif head == "ForQuestionAnsweringSimple":
        yield from _linear("qa_outputs", labels, size)
    elif head == "ForQuestionAnswering":
        yield from _linear("qa_outputs.start_logits.dense", 1, size)
        yield from _linear("qa_outputs.end_logits.dense_0", size, 2 * size)
        yield from _norm("qa_outputs.end_logits.LayerNorm", size)
        yield from _linear("qa_outputs.end_logits.dense_1", 1, size)
        yield from _linear("qa_outputs.answer_class.dense_0", size, 2 * size)
        yield from _linear("qa_outputs.answer_class.dense_1", 1, size, bias=False)
