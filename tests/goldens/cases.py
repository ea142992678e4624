"""Which models and calls are recorded, as data; ``make_goldens.py`` runs them with the reference.

A model is a class name, a config and constructor options. A case is a model and the calls made on it one after the other;
``train`` adds one step of plain gradient descent. The values of inputs are written as ``layout.py`` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

B, S, VOCAB, HIDDEN = 2, 6, 37, 16
Case = dict[str, Any]

ROBERTA = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 14,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
XLM = {
    "vocab_size": VOCAB,
    "emb_dim": HIDDEN,
    "n_layers": 2,
    "n_heads": 2,
    "n_langs": 3,
    "max_position_embeddings": 14,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "summary_first_dropout": 0.0,
    "start_n_top": 3,
    "end_n_top": 2,
}
PREFIX = {"xlm-roberta": "XLMRoberta", "xlm-roberta-xl": "XLMRobertaXL", "xlm": "XLM"}

models: dict[str, dict[str, Any]] = {}
cases: dict[str, Case] = {}


def ints(name: str, shape: tuple[int, ...], low: int, high: int) -> dict[str, Any]:
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(name))
    return {"int": np.random.RandomState(seed).randint(low, high, shape).tolist()}


def model(family: str, head: str, variant: str = "", **options: Any) -> str:
    """Register a model and return its name."""
    name = f"{family}/{head}{'/' + variant if variant else ''}"
    base = XLM if family == "xlm" else ROBERTA
    init = options.pop("init", {})
    models[name] = {"family": family, "class": PREFIX[family] + head, "config": {**base, **options}, "init": init}
    return name


def case(name: str, of: str, *calls: dict[str, Any], train: bool = False, **more: Any) -> None:
    """Register a case; each call is the keyword arguments of ``forward``."""
    family = models[of]["family"]
    key = f"{family}/{name}"
    assert key not in cases, key
    cases[key] = {"model": of, "calls": list(calls), **({"train": True} if train else {}), **more}


def padded(left: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ids with two pads in the second row (R and XL), and their mask."""
    ids = np.asarray(IDS["int"]).copy()
    mask = np.ones((B, S), int)
    pads = slice(0, 2) if left else slice(S - 2, S)
    ids[1, pads], mask[1, pads] = 1, 0
    return {"int": ids.tolist()}, {"int": mask.tolist()}


IDS = ints("ids", (B, S), 4, VOCAB)
MORE = ints("more", (B, 3), 4, VOCAB)
LABELS = {"int": [[-100, 7, -100, 36, 0, -100], [5, -100, -100, -100, 12, 4]]}
TYPES = {"int": [[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]]}
POSITIONS = {"int": [[3, 4, 5, 6, 7, 8], [13, 2, 2, 9, 1, 0]]}
EMBEDS = {"normal": ["inputs_embeds", [B, S, HIDDEN]]}
CONTEXT = {"normal": ["encoder_hidden_states", [B, 4, HIDDEN]]}
CONTEXT_MASK = {"int": [[1, 1, 1, 1], [1, 1, 0, 0]]}
CUBE = {"int": np.tril(np.ones((B, S, S), int), 1).tolist()}
HEADS_1 = {"float": [0.0, 1.0]}
HEADS_2 = {"float": [[1.0, 0.5], [0.0, 1.0]]}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
CHOICES = ints("choices", (B, 3, 5), 4, VOCAB)


def family_r(family: str) -> None:
    """Every head and option of XLM-R or XL."""
    right, right_mask = padded()
    left, left_mask = padded(left=True)
    base = model(family, "Model")
    case("plain", base, {"input_ids": IDS, **EVERYTHING})
    case("pads-without-mask", base, {"input_ids": right})
    case("mask-right", base, {"input_ids": right, "attention_mask": right_mask, **EVERYTHING})
    case("mask-left", base, {"input_ids": left, "attention_mask": left_mask})
    case("mask-bool", base, {"input_ids": right, "attention_mask": {"bool": np.asarray(right_mask["int"]) > 0}})
    half = np.where(np.asarray(right_mask["int"]) > 0, 1.0, 0.5)
    case("mask-fraction", base, {"input_ids": right, "attention_mask": {"float": half}})
    case("mask-all-hidden", base, {"input_ids": IDS, "attention_mask": {"int": [[1] * S, [0] * S]}})
    case("mask-3d", base, {"input_ids": IDS, "attention_mask": CUBE})
    case("positions", base, {"input_ids": IDS, "position_ids": POSITIONS})
    case("types", base, {"input_ids": IDS, "token_type_ids": TYPES})
    case("heads-1d", base, {"input_ids": IDS, "head_mask": HEADS_1, **EVERYTHING})
    case("heads-2d", base, {"input_ids": IDS, "head_mask": HEADS_2, **EVERYTHING})
    case("embeds", base, {"inputs_embeds": EMBEDS, "attention_mask": right_mask})
    case("tuple", base, {"input_ids": IDS, "return_dict": False})
    case("tuple-everything", base, {"input_ids": IDS, "return_dict": False, **EVERYTHING})
    case("encoder-ignores-context", base, {"input_ids": IDS, "encoder_hidden_states": CONTEXT, "use_cache": True})
    bare = model(family, "Model", "no-pooler", init={"add_pooling_layer": False})
    case("no-pooler", bare, {"input_ids": IDS})
    case("no-pooler-tuple", bare, {"input_ids": IDS, "return_dict": False, "output_hidden_states": True})
    for act in ("relu", "silu", "gelu_new"):
        case(f"act-{act}", model(family, "Model", act, hidden_act=act), {"input_ids": IDS})
    case("chunked", model(family, "Model", "chunked", chunk_size_feed_forward=3), {"input_ids": IDS})
    case("pad-9", model(family, "Model", "pad-9", pad_token_id=0, max_position_embeddings=9), {"input_ids": right})
    for kind in ("relative_key", "relative_key_query"):
        of = model(family, "Model", kind, position_embedding_type=kind)
        case(kind, of, {"input_ids": right, "attention_mask": right_mask, **EVERYTHING})

    decoder = model(family, "Model", "decoder", is_decoder=True)
    case("decoder", decoder, {"input_ids": right, "attention_mask": right_mask, "use_cache": True, **EVERYTHING})
    case("decoder-tuple", decoder, {"input_ids": IDS, "return_dict": False, **EVERYTHING})
    case("decoder-3d-is-not-causal", decoder, {"input_ids": IDS, "attention_mask": CUBE, "use_cache": False})
    one = {"int": [row[:1] for row in MORE["int"]]}
    steps = [{"input_ids": IDS}, {"input_ids": one, "past_key_values": {"past": True}}]
    steps.append({"input_ids": one, "past_key_values": {"past": True}})
    case("decoder-steps", decoder, *steps)
    case("decoder-many-at-once", decoder, {"input_ids": IDS}, {"input_ids": MORE, "past_key_values": {"past": True}})
    full = {"int": [[1] * 9, [0, 0] + [1] * 7]}
    second = {"input_ids": MORE, "attention_mask": full, "past_key_values": {"past": True}}
    case("decoder-left-padded", decoder, {"input_ids": left, "attention_mask": left_mask}, second)
    step = {"inputs_embeds": {"normal": ["step", [B, 1, HIDDEN]]}, "past_key_values": {"past": True}}
    case("decoder-embeds", decoder, {"inputs_embeds": EMBEDS}, step)
    cross = model(family, "Model", "cross", is_decoder=True, add_cross_attention=True)
    context = {"encoder_hidden_states": CONTEXT, "encoder_attention_mask": CONTEXT_MASK}
    case("cross", cross, {"input_ids": right, "attention_mask": right_mask, **context, **EVERYTHING})
    case("cross-tuple", cross, {"input_ids": IDS, **context, **EVERYTHING, "return_dict": False})
    case("cross-steps", cross, {"input_ids": IDS, **context}, {**steps[1], **context})
    case("cross-heads", cross, {"input_ids": IDS, **context, "head_mask": HEADS_2})
    both = {"is_decoder": True, "add_cross_attention": True, "position_embedding_type": "relative_key_query"}
    relative = model(family, "Model", "cross-relative", **both)
    case("cross-relative", relative, {"input_ids": IDS, **context}, {**steps[1], **context})

    causal = model(family, "ForCausalLM", is_decoder=True)
    case("causal-train", causal, {"input_ids": right, "attention_mask": right_mask, "labels": LABELS}, train=True)
    case("causal-steps", causal, *steps)
    case("causal-tuple", causal, {"input_ids": IDS, "labels": LABELS, "return_dict": False})
    case("causal-tuple-cache", causal, {"input_ids": IDS, "return_dict": False})
    greedy = {"max_length": 11, "do_sample": False, "pad_token_id": 1}
    case("causal-greedy", causal, {"input_ids": IDS, **greedy}, method="generate")
    case("causal-beam", causal, {"input_ids": IDS, **greedy, "num_beams": 3}, method="generate")
    case("causal-bidirectional", model(family, "ForCausalLM", "encoder"), {"input_ids": IDS, "labels": LABELS})
    crossed = model(family, "ForCausalLM", "cross", is_decoder=True, add_cross_attention=True)
    case("causal-cross-train", crossed, {"input_ids": IDS, **context, "labels": LABELS}, train=True)

    masked = model(family, "ForMaskedLM")
    case("masked-train", masked, {"input_ids": right, "attention_mask": right_mask, "labels": LABELS}, train=True)
    case("masked", masked, {"input_ids": IDS, **EVERYTHING})
    case("masked-tuple", masked, {"input_ids": IDS, "labels": LABELS, "return_dict": False})
    case("masked-none-counted", masked, {"input_ids": IDS, "labels": {"int": np.full((B, S), -100).tolist()}})
    untied = model(family, "ForMaskedLM", "untied", tie_word_embeddings=False)
    case("masked-untied-train", untied, {"input_ids": IDS, "labels": LABELS}, train=True)
    case("masked-decoder", model(family, "ForMaskedLM", "decoder", is_decoder=True), {"input_ids": IDS})
    classify_cases(family, "ForSequenceClassification", right, right_mask, {})

    tagger = model(family, "ForTokenClassification", num_labels=5)
    tags = {"int": [[0, 4, -100, 3, 2, 1], [1, -100, 2, 3, 4, 0]]}
    seen = {"input_ids": right, "attention_mask": right_mask}
    case("tag-train", tagger, {**seen, "labels": tags}, train=True)
    case("tag-tuple", tagger, {**seen, "return_dict": False, **EVERYTHING})
    answerer = model(family, "ForQuestionAnswering")
    spans = {"start_positions": {"int": [1, 6]}, "end_positions": {"int": [3, 2]}}
    case("answer-train", answerer, {**seen, **spans}, train=True)
    clamped = {"start_positions": {"int": [[-4], [2]]}, "end_positions": {"int": [[90], [2]]}}
    case("answer-clamped", answerer, {**seen, **clamped})
    case("answer-tuple", answerer, {**seen, "return_dict": False, **EVERYTHING})
    chooser = model(family, "ForMultipleChoice")
    flat = {"token_type_ids": {"int": np.tile([0, 0, 1, 1, 0], (B, 3, 1)).tolist()}}
    mask = {"attention_mask": {"int": np.tile([1, 1, 1, 1, 0], (B, 3, 1)).tolist()}}
    case("choose-train", chooser, {"input_ids": CHOICES, **mask, **flat, "labels": {"int": [2, 0]}}, train=True)
    case("choose-tuple", chooser, {"input_ids": CHOICES, "return_dict": False, **EVERYTHING})
    chosen = {"inputs_embeds": {"normal": ["choices", [B, 3, 5, HIDDEN]]}}
    case("choose-embeds", chooser, chosen)


def classify_cases(family: str, head: str, ids: Any, mask: Any, more: dict[str, Any]) -> None:
    """The problem types of sequence classification, told apart by labels or said in the config."""
    three = model(family, head, num_labels=3, **more)
    seen = {"input_ids": ids, "attention_mask": mask}
    single, multi = {"int": [2, 0]}, {"float": [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]}
    case("classify-train", three, {**seen, "labels": single}, train=True)
    case("classify-tuple", three, {**seen, "labels": single, "return_dict": False, **EVERYTHING})
    case("classify-multi", three, {**seen, "labels": multi})
    one = model(family, head, "one", num_labels=1, **more)
    case("classify-regression", one, {**seen, "labels": {"float": [0.5, -1.25]}})
    several = model(family, head, "regression", num_labels=3, problem_type="regression", **more)
    case("classify-regression-several", several, {**seen, "labels": multi})
    said = model(family, head, "multi", num_labels=3, problem_type="multi_label_classification", **more)
    case("classify-multi-said", said, {**seen, "labels": multi})


def family_xlm() -> None:
    """Every head and option of XLM. The pad is 2, so rows are padded with it."""
    ids = np.asarray(IDS["int"]).copy()
    ids[1, -2:] = 2
    right = {"int": ids.tolist()}
    mask = np.ones((B, S), int)
    mask[1, -2:] = 0
    right_mask = {"int": mask.tolist()}
    left = np.asarray(IDS["int"]).copy()
    left[1, :2] = 2
    left_mask = {"int": mask[:, ::-1].tolist()}
    langs = {"int": [[0, 0, 0, 2, 2, 2], [1, 1, 1, 1, 2, 0]]}
    base = model("xlm", "Model")
    case("plain", base, {"input_ids": IDS, **EVERYTHING})
    case("languages", base, {"input_ids": IDS, "langs": langs})
    case("pads-counted", base, {"input_ids": right, "langs": langs, **EVERYTHING})
    case("pads-left-miscounted", base, {"input_ids": {"int": left.tolist()}})
    case("mask-right", base, {"input_ids": right, "attention_mask": right_mask})
    case("mask-left", base, {"input_ids": {"int": left.tolist()}, "attention_mask": left_mask})
    half = {"float": np.where(mask > 0, 1.0, 0.5).tolist()}
    case("mask-fraction", base, {"input_ids": right, "attention_mask": half})
    case("lengths", base, {"input_ids": IDS, "lengths": {"int": [6, 3]}, "langs": langs})
    case("positions", base, {"input_ids": IDS, "position_ids": POSITIONS})
    case("types-are-words", base, {"input_ids": IDS, "token_type_ids": TYPES})
    case("heads-1d", base, {"input_ids": IDS, "head_mask": HEADS_1, **EVERYTHING})
    case("heads-2d", base, {"input_ids": IDS, "head_mask": HEADS_2})
    case("embeds", base, {"inputs_embeds": EMBEDS, "langs": langs})
    case("embeds-lengths", base, {"inputs_embeds": EMBEDS, "lengths": {"int": [4, 6]}})
    case("tuple", base, {"input_ids": IDS, "return_dict": False})
    case("tuple-everything", base, {"input_ids": IDS, "return_dict": False, **EVERYTHING})
    single = model("xlm", "Model", "one-language", n_langs=1)
    case("one-language", single, {"input_ids": IDS, "langs": {"int": np.zeros((B, S), int).tolist()}})
    unused = model("xlm", "Model", "no-language-table", use_lang_emb=False)
    case("no-language-table", unused, {"input_ids": IDS, "langs": langs})
    case("relu", model("xlm", "Model", "relu", gelu_activation=False), {"input_ids": IDS})
    case("chunked", model("xlm", "Model", "chunked", chunk_size_feed_forward=3), {"input_ids": IDS})
    case("pad-1", model("xlm", "Model", "pad-1", pad_index=1), {"input_ids": {"int": [[5, 7, 9, 1], [4, 2, 1, 1]]}})
    causal = model("xlm", "Model", "causal", causal=True)
    case("causal", causal, {"input_ids": right, "attention_mask": right_mask, **EVERYTHING})
    grown = {"int": np.concatenate([IDS["int"], MORE["int"]], 1).tolist()}
    cached = [{"input_ids": IDS, "cache": {"cache": True}}, {"input_ids": grown, "cache": {"cache": True}}]
    case("causal-cache", causal, *cached)

    words = model("xlm", "WithLMHeadModel")
    case("masked-train", words, {"input_ids": right, "langs": langs, "labels": LABELS}, train=True)
    case("masked", words, {"input_ids": IDS, **EVERYTHING})
    case("masked-tuple", words, {"input_ids": IDS, "labels": LABELS, "return_dict": False, **EVERYTHING})
    untied = model("xlm", "WithLMHeadModel", "untied", tie_word_embeddings=False)
    case("masked-untied-train", untied, {"input_ids": IDS, "labels": LABELS}, train=True)
    case("prepare", words, {"input_ids": IDS}, method="prepare_inputs_for_generation")
    clm = model("xlm", "WithLMHeadModel", "causal", causal=True, mask_token_id=5, lang_id=1)
    greedy = {"max_length": 11, "do_sample": False}
    case("greedy", clm, {"input_ids": IDS, **greedy}, method="generate")
    case("beam", clm, {"input_ids": IDS, **greedy, "num_beams": 3, "early_stopping": False}, method="generate")
    adaptive = {"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 2.0, "tie_word_embeddings": False}
    case("adaptive", model("xlm", "WithLMHeadModel", "adaptive", **adaptive), {"input_ids": IDS}, by_parts=True)
    wanted = {"int": np.where(np.asarray(LABELS["int"]) < 0, 30, LABELS["int"]).tolist()}
    case("adaptive-loss", "xlm/WithLMHeadModel/adaptive", {"input_ids": IDS, "labels": wanted}, by_parts=True)

    classify_cases("xlm", "ForSequenceClassification", right, right_mask, {})
    for kind in ("last", "mean"):
        of = model("xlm", "ForSequenceClassification", kind, num_labels=3, summary_type=kind)
        case(f"summary-{kind}", of, {"input_ids": right})
    options = {"summary_activation": "tanh", "summary_proj_to_labels": False, "num_labels": 3}
    case("summary-tanh", model("xlm", "ForSequenceClassification", "tanh", **options), {"input_ids": IDS})
    none = model("xlm", "ForSequenceClassification", "no-projection", num_labels=HIDDEN, summary_use_proj=False)
    case("summary-no-projection", none, {"input_ids": IDS})

    tagger = model("xlm", "ForTokenClassification", num_labels=5)
    tags = {"int": [[0, 4, -100, 3, 2, 1], [1, -100, 2, 3, 4, 0]]}
    case("tag-train", tagger, {"input_ids": right, "attention_mask": right_mask, "labels": tags}, train=True)
    case("tag-tuple", tagger, {"input_ids": IDS, "return_dict": False, **EVERYTHING})
    simple = model("xlm", "ForQuestionAnsweringSimple")
    spans = {"start_positions": {"int": [1, 6]}, "end_positions": {"int": [3, 2]}}
    case("answer-simple-train", simple, {"input_ids": right, **spans}, train=True)
    clamped = {"start_positions": {"int": [[-4], [2]]}, "end_positions": {"int": [[90], [2]]}}
    case("answer-simple-clamped", simple, {"input_ids": right, **clamped})
    case("answer-simple-tuple", simple, {"input_ids": right, "return_dict": False, **EVERYTHING})
    beam = model("xlm", "ForQuestionAnswering")
    spans = {"start_positions": {"int": [1, 5]}, "end_positions": {"int": [3, 2]}}
    case("answer-beam-train", beam, {"input_ids": right, **spans}, train=True)
    forbid = {"p_mask": {"float": [[1.0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 1, 1]]}}
    known = {"cls_index": {"int": [0, 3]}, "is_impossible": {"float": [0.0, 1.0]}}
    case("answer-beam-train-impossible", beam, {"input_ids": right, **spans, **known, **forbid}, train=True)
    case("answer-beam", beam, {"input_ids": right, **EVERYTHING})
    case("answer-beam-masked", beam, {"input_ids": right, **forbid, "cls_index": {"int": [0, 3]}})
    case("answer-beam-tuple", beam, {"input_ids": right, "return_dict": False, **EVERYTHING})
    case("answer-beam-train-tuple", beam, {"input_ids": right, **spans, "return_dict": False})
    chooser = model("xlm", "ForMultipleChoice", num_labels=1)
    tiled = {"attention_mask": {"int": np.tile([1, 1, 1, 1, 0], (B, 3, 1)).tolist()}}
    tiled["langs"] = {"int": np.tile([0, 0, 1, 1, 2], (B, 3, 1)).tolist()}
    case("choose-train", chooser, {"input_ids": CHOICES, **tiled, "labels": {"int": [2, 0]}}, train=True)
    case("choose-tuple", chooser, {"input_ids": CHOICES, "return_dict": False, **EVERYTHING})


family_r("xlm-roberta")
family_r("xlm-roberta-xl")
family_xlm()
