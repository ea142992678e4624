"""The options of a search over texts (``generate``): which there are, what they ban, and what is said of unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from xlm.errors import ArgumentError, InputError
from xlm.families.fields import BASE_DEFAULTS

# Keys of a config that shape a search. One that a framework does not offer must be at its default.
KEYS = """
max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
""".split()
# What other libraries' generate takes and this one's does not: said to be not offered rather than unknown.
_ELSEWHERE = """
generation_config logits_processor stopping_criteria streamer prefix_allowed_tokens_fn assistant_model synced_gpus
penalty_alpha epsilon_cutoff eta_cutoff renormalize_logits force_words_ids constraints sequence_bias guidance_scale max_time
num_assistant_tokens negative_prompt_ids logits_warper prng_key seed generator
""".split()


def check_options(
    config: Any, given: Mapping[str, Any], offered: Iterable[str], model: Collection[str] = ()
) -> dict[str, Any]:
    """What of a call's arguments is left for the model; whatever neither a search nor the model knows is refused.

    An argument that asks for nothing (``None``, ``False``, empty, or its documented default) is dropped.

    Args:
        config: of the model; a key that the framework does not offer must be at its default there.
        given: the arguments of the call.
        offered: names of the options that the framework offers.
        model: names of the model's own arguments.

    Raises:
        ArgumentError: names the argument, and what was probably meant.
        InputError: a key of the config asks for what is not offered.
    """
    offered = sorted(offered)
    rest = {}
    for name, value in given.items():
        if name in offered:
            continue
        if name in model:
            rest[name] = value
        elif not _asks_nothing(name, value):
            if name in KEYS or name in _ELSEWHERE:
                raise ArgumentError(f"{name}={value!r}: not offered by generate here, which takes {', '.join(offered)}")
            near = difflib.get_close_matches(name, [*offered, *model], 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; it takes {', '.join(offered)}"
            raise ArgumentError(f"{name}={value!r}: generate knows no such argument{hint}")
    for name in KEYS:
        value = getattr(config, name, None)
        if name not in offered and name not in given and not _asks_nothing(name, value):
            default = BASE_DEFAULTS[name]
            raise InputError(
                f"config.{name}={value!r}: not offered by generate here; give {name}={default!r} to go without"
            )
    return rest


def _asks_nothing(name: str, value: Any) -> bool:
    if value is None or value is False or (hasattr(value, "__len__") and len(value) == 0):
        return True
    return name in BASE_DEFAULTS and bool(value == BASE_DEFAULTS[name])


def ids_of(value: Any) -> tuple[int, ...]:
    """No id, one, or several, as a tuple."""
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)


def check_banned(words: Any, suppressed: Any, forced: Any, vocabulary: int | None) -> None:
    """Refuse impossible ``bad_words_ids``, ``suppress_tokens`` and ``forced_eos_token_id``.

    Raises:
        InputError: names the argument, its value and the limit.
    """
    if words is not None and (
        not isinstance(words, list | tuple) or not all(isinstance(w, list | tuple) for w in words)
    ):
        raise InputError(f"bad_words_ids={words!r}: must be a list of lists of token ids")
    named = [("bad_words_ids", w) for w in words or ()]
    for name, ids in [*named, ("suppress_tokens", ids_of(suppressed)), ("forced_eos_token_id", ids_of(forced))]:
        if (name == "bad_words_ids" and not ids) or not all(
            type(i) is int and 0 <= i and (vocabulary is None or i < vocabulary) for i in ids
        ):
            limit = "at least 0" if vocabulary is None else f"from 0 to {vocabulary - 1}"
            raise InputError(f"{name}: {list(ids)} must be token ids, integers {limit}")


def banned(row: Sequence[int], repeats: int, words: Iterable[Sequence[int]], eos: Collection[int]) -> list[int]:
    """Ids that may not follow a row.

    Args:
        row: ids so far.
        repeats: ``no_repeat_ngram_size``: no so many tokens may stand twice; 0 bans nothing.
        words: ``bad_words_ids``: no such sequence may come; an end of the text (``eos``) alone is none.
    """
    found = []
    if repeats:
        prefix = list(row[len(row) - repeats + 1 :]) if repeats > 1 else []
        starts = range(len(row) - repeats + 1)
        found += [row[i + repeats - 1] for i in starts if list(row[i : i + repeats - 1]) == prefix]
    for *prefix, last in words:
        if not (not prefix and last in eos) and list(row[len(row) - len(prefix) :]) == list(prefix):
            found.append(last)
    return found
