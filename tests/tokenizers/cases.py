"""Calls that every tokenizer must answer as transformers 4.37.2 does: plain data, run by either library.

``run(kind, make, case)`` makes the call and returns JSON; ``make`` builds the tokenizer of a name (``slow``, ``fast``,
``xlm``). Nothing here imports a tokenizer library.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

TEXTS = [
    "Hello world!",
    "",
    "   ",
    " leading and  double   spaces ",
    'The quick brown fox, isn\'t it? "Yes" (no).',
    "Größe café naïve ﬁne ½ Ⅷ ℌello",
    "Привет, мир! Как дела?",
    "你好，世界。这是一个测试！",
    "こんにちは世界、テスト。",
    "안녕하세요 세계",
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया, कैसे हो?",
    "مرحبا بالعالم، كيف الحال؟",
    "e\u0301te\u0301 Å Å",
    "tab\tnew\nline\r\nend",
    "zero\u200bwidth \ufeffbom \u00adsoft",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "a <mask> b",
    "a<mask>b",
    "x   <mask>   y <mask>",
    "<s> inner </s> <pad> <unk>",
    "ｆｕｌｌ ｗｉｄｔｈ ＜mask＞",
    "control\x01char\x7f here\x00nul",
    "1,234.56 $5 50% 3'4",
    "..... ... .. . a.b.c. U.S.A. Mr. Smith etc. No. 5 e.g. this",
    "ΑΣ ΟΔΟΣ İstanbul ẞ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "don't can't we'll O'Neil 'quoted' it's l'eau",
    "user@example.com http://example.com/path?x=1#y #tag @name",
    "«Bonjour» – dit-il — „Hallo“ ‚x’ “y” …",
    "₹100 €5 ±2 ×3 ÷4 ∑ √ ∞ ≈",
    "ك\u064eت\u064eب\u064e שָׁלוֹם",
    "x¨y ´z` a¸",
    "<special1> <special3>foo </w> bar</w>",
]
PAIRS = [
    ("Hello world", "How are you today?"),
    ("A", "A much longer second sequence that goes on and on for a while"),
    ("A much longer first sequence that goes on and on for a while", "B"),
    ("Привет", ""),
    ("", "only second"),
]
LONG = "The tokenizer must cut long texts into windows, and every window overlaps the last one by some tokens. " * 3
WORDS = [["Hello", "world", "!"], ["Größe", "ﬁne"], ["", "x"], ["two words", "<mask>"]]

Case = tuple[str, list[Any], dict[str, Any]]


def cases(kind: str) -> Iterator[Case]:
    """Every ``(method, arguments, options)``."""
    for text in TEXTS:
        yield "__call__", [text], {}
        yield "tokenize", [text], {}
        yield "encode", [text], {"add_special_tokens": False}
        yield "roundtrip", [text], {}
        yield "roundtrip", [text], {"skip_special_tokens": True}
        yield "roundtrip", [text], {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    for first, second in PAIRS:
        yield "__call__", [first, second], {}
        yield "__call__", [first, second], {"return_special_tokens_mask": True, "return_token_type_ids": True}
        yield "encode", [first, second], {"add_special_tokens": False}
        for strategy, side, length, stride in itertools.product(
            ("longest_first", "only_first", "only_second"), ("right", "left"), (7, 12), (0, 1)
        ):
            options = {"truncation": strategy, "max_length": length, "stride": stride}
            yield "__call__", [first, second], {**options, "_truncation_side": side}
            if strategy != "longest_first" or kind == "fast":
                yield (
                    "__call__",
                    [first, second],
                    {**options, "_truncation_side": side, "return_overflowing_tokens": True},
                )
    for side, length, stride in itertools.product(("right", "left"), (5, 16, 30), (0, 2)):
        options = {"truncation": True, "max_length": length, "stride": stride, "_truncation_side": side}
        yield "__call__", [LONG], options
        yield "__call__", [LONG], {**options, "return_overflowing_tokens": True, "return_length": True}
        yield "__call__", [[LONG, "short"]], {**options, "return_overflowing_tokens": True, "padding": True}
        yield "encode", [LONG], options
    batch = [TEXTS[0], TEXTS[4], TEXTS[6], ""]
    for padding, side, multiple in itertools.product(
        (True, "max_length", "longest", False), ("right", "left"), (None, 8)
    ):
        options = {"padding": padding, "max_length": 24, "truncation": True, "pad_to_multiple_of": multiple}
        yield "__call__", [batch], {**options, "_padding_side": side}
        yield "__call__", [batch[0]], {**options, "_padding_side": side, "return_special_tokens_mask": True}
        yield (
            "__call__",
            [batch],
            {**options, "_padding_side": side, "return_length": True, "return_attention_mask": False},
        )
    for tensors in ("np",):
        yield "__call__", [batch], {"padding": True, "return_tensors": tensors}
        yield "__call__", [batch[0]], {"return_tensors": tensors}
        yield "encode", [batch[0]], {"return_tensors": tensors}
        yield (
            "__call__",
            [batch[:2], batch[1:3]],
            {"padding": True, "return_tensors": tensors, "return_token_type_ids": True},
        )
    for words in WORDS:
        yield "__call__", [words], {"is_split_into_words": True}
        yield "__call__", [[words, WORDS[0]]], {"is_split_into_words": True, "padding": True}
        yield "__call__", [words, WORDS[0]], {"is_split_into_words": True}
    yield "__call__", [[]], {}
    yield "batch_encode_plus", [[list(pair) for pair in PAIRS]] if kind == "slow" else [batch], {}
    yield "batch_encode_plus", [[tuple(pair) for pair in PAIRS]], {"_pairs": True}
    yield "encode_plus", [TEXTS[4], TEXTS[5]], {"return_length": True}
    yield "__call__", [TEXTS[0]], {"text_target": TEXTS[4]}
    yield "__call__", [None], {"text_target": TEXTS[4]}
    for name in ATTRIBUTES:
        yield "attribute", [name], {}
    for ids in ([0, 5, 6, 2], [0, 5, 2, 1, 1], [3, 4, 5], 7, []):
        yield "convert_ids_to_tokens", [ids], {}
        yield "decode", [ids], {}
        yield "decode", [ids], {"skip_special_tokens": True}
    yield "convert_ids_to_tokens", [[0, 5, 6, 2]], {"skip_special_tokens": True}
    yield "batch_decode", [[[0, 5, 6, 2], [0, 8, 2]]], {"skip_special_tokens": True}
    for tokens in (
        "<s>",
        "</s>",
        "<mask>",
        "▁",
        "qqqq",
        ["<pad>", "<unk>", "▁the", "the</w>", "zzzzzz"],
        "<special1>",
        [],
    ):
        yield "convert_tokens_to_ids", [tokens], {}
    yield "convert_tokens_to_string", [["▁Hello", "▁wor", "ld", "the</w>", "x"]], {}
    for first, second in (([5, 6], None), ([5, 6], [7, 8, 9]), ([], [])):
        yield "build_inputs_with_special_tokens", [first, second], {}
        yield "create_token_type_ids_from_sequences", [first, second], {}
        if kind != "fast":
            yield "get_special_tokens_mask", [first, second], {}
    yield "get_special_tokens_mask", [[0, 5, 6, 2, 1]], {"already_has_special_tokens": True}
    yield "num_special_tokens_to_add", [], {"pair": False}
    yield "num_special_tokens_to_add", [], {"pair": True}
    many = list(range(10, 30))
    for strategy, count, stride in itertools.product(
        ("longest_first", "only_first", "only_second"), (0, 3, 19, 25), (0, 2)
    ):
        yield "truncate_sequences", [many, many[:12], count, strategy, stride], {}
        yield "truncate_sequences", [many, None, count, strategy, stride], {}
    for length in (None, 12):
        yield "prepare_for_model", [many], {"max_length": length, "truncation": True}
        yield (
            "prepare_for_model",
            [many, many[:6]],
            {"max_length": length, "truncation": "only_first"},
        )
    yield "pad", [{"input_ids": [[0, 5, 2], [0, 2]]}], {}
    yield (
        "pad",
        [[{"input_ids": [0, 5, 2]}, {"input_ids": [0, 2], "attention_mask": [1, 1]}][:1]],
        {"pad_to_multiple_of": 4},
    )
    yield "pad", [{"input_ids": [0, 5, 2]}], {"padding": "max_length", "max_length": 6}
    yield (
        "pad",
        [{"input_ids": [[0, 5, 2], [0, 2]], "special_tokens_mask": [[1, 0, 1], [1, 1]]}],
        {"return_tensors": "np"},
    )
    added = ["newtok", {"content": "two words", "lstrip": True}, {"content": "single", "single_word": True},
             {"content": "RS", "rstrip": True, "normalized": False}]  # fmt: skip
    for text in ("a newtok b", "anewtokb two words", "x  two words y", "single singles a single.", "aRS  b RS",
                 "NEWTOK rs Single", "newtok newtoknewtok", "  newtok  "):  # fmt: skip
        for special in (False, True):
            yield "added", [added, special, text], {}
    for special_map in ({"additional_special_tokens": ["<a>", "<b>"]}, {"pad_token": "<newpad>", "sep_token": "<sep>"}):
        yield "add_special", [special_map, "x <a> y <b> <sep> z"], {}
    if kind == "fast":
        for text in TEXTS:
            if text not in FIXED:
                yield "__call__", [text], {"return_offsets_mapping": True}
            yield "words", [text], {}
        yield "__call__", [[LONG]], {"truncation": True, "max_length": 20, "stride": 3, "return_overflowing_tokens": True,
                                     "return_offsets_mapping": True}  # fmt: skip
        for words in WORDS:
            yield "words", [words], {"is_split_into_words": True}
        for first, second in PAIRS:
            yield "words", [first, second], {}
            yield "kin", [first, second], {}
    if kind == "xlm":
        for text in TEXTS:
            for lang in ("en", "fr", "ro", "ru"):
                yield "_tokenize", [text], {"lang": lang}
            yield "_tokenize", [text], {"bypass_tokenizer": True}


# Texts whose spans the reference loses part of: a mark that was composed, or a whole cluster that was replaced.
FIXED = {TEXTS[13], TEXTS[14], TEXTS[31], TEXTS[32], TEXTS[5]}
ATTRIBUTES = (
    "bos_token eos_token unk_token sep_token pad_token cls_token mask_token additional_special_tokens bos_token_id"
    " eos_token_id unk_token_id sep_token_id pad_token_id cls_token_id mask_token_id additional_special_tokens_ids"
    " pad_token_type_id"
    " all_special_tokens all_special_ids special_tokens_map vocab_size is_fast model_max_length padding_side truncation_side"
    " model_input_names clean_up_tokenization_spaces split_special_tokens max_len_single_sentence max_len_sentences_pair"
    " added_tokens_encoder"
).split()


def plain(value: Any) -> Any:
    """JSON of whatever a call returned."""
    if hasattr(value, "tolist"):
        return {"shape": list(value.shape), "values": value.tolist()}
    if hasattr(value, "keys"):
        return {str(key): plain(value[key]) for key in sorted(value.keys(), key=str)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def run(make: Callable[[], Any], token: Callable[..., Any], case: Case) -> Any:
    """The answer to a case, or the fact that it raised."""
    method, arguments, options = case
    options = dict(options)
    options.pop("_pairs", None)
    tokenizer = make()
    for side in ("padding_side", "truncation_side"):
        setattr(tokenizer, side, options.pop(f"_{side}", "right"))
    try:
        return json.loads(json.dumps(plain(_answer(tokenizer, token, method, arguments, options))))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # The reference's compiled part panics with an error that is no Exception.
        return {"raised": True}


def _answer(
    tokenizer: Any, token: Callable[..., Any], method: str, arguments: list[Any], options: dict[str, Any]
) -> Any:
    if method == "attribute":
        return getattr(tokenizer, arguments[0])
    if method == "roundtrip":
        return tokenizer.decode(tokenizer(arguments[0])["input_ids"], **options)
    if method == "words":
        row = tokenizer(*arguments, **options)
        return [row.word_ids(), row.sequence_ids(), row.tokens()]
    if method == "kin":
        row = tokenizer(*arguments)
        chars = range(max(map(len, arguments)) + 1)
        return [
            [row.char_to_token(i, sequence_index=s) for i in chars for s in (0, 1)],
            [row.char_to_word(i, sequence_index=s) for i in chars for s in (0, 1)],
            [row.token_to_chars(i) for i in range(len(row["input_ids"]))],
            [row.token_to_word(i) for i in range(len(row["input_ids"]))],
            [row.token_to_sequence(i) for i in range(len(row["input_ids"]))],
            [row.word_to_tokens(0, sequence_index=s) for s in (0, 1)],
        ]
    if method == "added":
        tokens = [item if isinstance(item, str) else token(**item) for item in arguments[0]]
        count = tokenizer.add_tokens(tokens, special_tokens=arguments[1])
        row = tokenizer(arguments[2])["input_ids"]
        shown = tokenizer.tokenize(arguments[2])
        return [
            count,
            len(tokenizer),
            row,
            shown,
            tokenizer.decode(row),
            tokenizer.decode(row, skip_special_tokens=True),
        ]
    if method == "add_special":
        count = tokenizer.add_special_tokens(arguments[0])
        row = tokenizer(arguments[1])["input_ids"]
        return [
            count,
            len(tokenizer),
            row,
            tokenizer.decode(row),
            tokenizer.all_special_tokens,
            tokenizer.all_special_ids,
        ]
    return getattr(tokenizer, method)(*arguments, **options)
