"""The search loops behind ``generate``."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from xlm.backends.torch.transfer import host_tensor, upload
from xlm.errors import InputError
from xlm.families.config import PretrainedConfig
from xlm.families.search import banned, check_banned, check_options, ids_of

_NAMES = {"bos": "bos_token_id", "pad": "pad_token_id", "eos": "eos_token_id"}
_OF_A_CALL = ("max_new_tokens", "min_new_tokens", "generator")
"""Options that no config holds."""


@dataclass
class Options:
    """What shapes a search; see :meth:`xlm.backends.torch.generation.GenerationMixin.generate`."""

    max_length: int = 20
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Any = None
    suppress_tokens: Any = None
    forced_eos_token_id: Any = None
    length_penalty: float = 1.0
    bos: int | None = None
    pad: int | None = None
    eos: tuple[int, ...] = ()
    use_cache: bool = True
    generator: torch.Generator | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, config: PretrainedConfig, kwargs: dict[str, Any], model: Collection[str] = ()
    ) -> tuple[Options, dict[str, Any]]:
        """Options from a call, then the config, then defaults; and the arguments that are left for the model.

        Args:
            model: names of the model's own arguments.

        Raises:
            ArgumentError: an argument that is neither.
        """
        names = {option.name: _NAMES.get(option.name, option.name) for option in fields(cls)}
        rest, chosen = check_options(config, kwargs, names.values(), model), {}
        for option, name in names.items():
            value = kwargs.get(name)
            if value is None and name not in _OF_A_CALL:
                value = getattr(config, name, None)
            if value is not None:
                chosen[option] = value
        chosen["eos"] = ids_of(chosen.get("eos"))
        if "pad" not in chosen and chosen["eos"]:
            chosen["pad"] = chosen["eos"][0]
        return cls(**chosen), rest

    def check(self, ids: Tensor, vocabulary: int | None = None) -> None:
        """Resolve lengths against the prompt and refuse impossible values."""
        if self.max_new_tokens is not None:
            self.max_length = ids.shape[1] + self.max_new_tokens
        if self.min_new_tokens is not None:
            self.min_length = ids.shape[1] + self.min_new_tokens
        if self.max_length <= ids.shape[1]:
            raise InputError(
                f"max_length={self.max_length}: the prompt has {ids.shape[1]} tokens; raise it or give max_new_tokens"
            )
        if self.num_beams < 1 or self.num_return_sequences < 1:
            raise InputError(
                f"num_beams={self.num_beams}, num_return_sequences={self.num_return_sequences}: at least 1"
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise InputError(f"num_return_sequences={self.num_return_sequences}: at most num_beams={self.num_beams}")
        if self.do_sample and self.generator is not None and self.generator.device.type != ids.device.type:
            raise InputError(
                f"generator on {self.generator.device}: the ids are on {ids.device}, and so must be what draws their next"
            )
        if self.temperature <= 0:
            raise InputError(f"temperature={self.temperature}: must be above 0; for the best token use do_sample=False")
        if self.early_stopping not in (False, True, "never"):
            raise InputError(f"early_stopping={self.early_stopping!r}: must be False, True or 'never'")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p}: must be above 0 and at most 1")
        check_banned(self.bad_words_ids, self.suppress_tokens, self.forced_eos_token_id, vocabulary)

    @property
    def wants_normal(self) -> bool:
        """Whether :meth:`shape` gives other tokens for log-probabilities than for scores that differ by a constant."""
        return self.repetition_penalty != 1.0 or self.forced_eos_token_id is not None

    def shape(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Apply penalties and bans to next-token scores (b, vocab)."""
        if self.repetition_penalty != 1.0:
            seen = scores.gather(1, ids)
            seen = torch.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
            scores = scores.scatter(1, ids, seen)
        if self.no_repeat_ngram_size or self.bad_words_ids:
            scores = scores.clone()
            words = self.bad_words_ids or ()
            for row, sequence in enumerate(ids.tolist()):
                scores[row, banned(sequence, self.no_repeat_ngram_size, words, self.eos)] = -torch.inf
        never = list(ids_of(self.suppress_tokens))
        if ids.shape[1] < self.min_length:
            never += [end for end in self.eos if end < scores.shape[1]]
        if never:
            scores = scores.clone()
            scores[:, never] = -torch.inf
        if self.forced_eos_token_id is not None and ids.shape[1] == self.max_length - 1:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, list(ids_of(self.forced_eos_token_id))] = 0.0
        return scores

    def narrow(self, scores: Tensor) -> Tensor:
        """Temperature, top-k and top-p on scores (b, vocab)."""
        scores = scores / self.temperature
        if self.top_k:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p < 1.0:
            order = scores.sort(descending=False, dim=-1)
            drop = order.values.softmax(-1).cumsum(-1) <= 1 - self.top_p
            drop[:, -1] = False
            scores = scores.masked_fill(drop.scatter(1, order.indices, drop), -torch.inf)
        return scores


class Steps:
    """Runs a model one step after the other and carries mask and cache."""

    def __init__(self, model: Any, rows: int, options: Options, model_kwargs: dict[str, Any]) -> None:
        self.model, self.kwargs = model, dict(model_kwargs)
        mask = self.kwargs.pop("attention_mask", None)
        repeat = options.num_beams if options.num_beams > 1 else options.num_return_sequences
        self.mask = None if mask is None else mask.repeat_interleave(repeat, 0)
        for key, value in self.kwargs.items():
            if isinstance(value, Tensor) and value.ndim and value.shape[0] * repeat == rows:
                self.kwargs[key] = value.repeat_interleave(repeat, 0)
        keeps = "use_cache" in inspect.signature(model.forward).parameters  # XLM's heads read the whole text each time
        self.cached = options.use_cache and keeps and bool(getattr(model.config, "is_decoder", False))
        self.past: Any = None

    def scores(self, ids: Tensor) -> Tensor:
        """Scores (b, vocab) of what follows ``ids`` (b, s)."""
        if self.mask is not None and self.mask.shape[1] < ids.shape[1]:
            grown = self.mask.new_ones(ids.shape[0], ids.shape[1] - self.mask.shape[1])
            self.mask = torch.cat([self.mask, grown], dim=1)
        inputs = self.model.prepare_inputs_for_generation(
            ids, past_key_values=self.past, attention_mask=self.mask, **self.kwargs
        )
        if self.cached:
            inputs["use_cache"] = True
        output = self.model(**inputs, return_dict=True)
        if self.cached:
            self.past = output.past_key_values
        return output.logits[:, -1].float()

    def reorder(self, beams: Tensor) -> None:
        """Let row ``i`` continue what row ``beams[i]`` began."""
        if self.past is not None:
            self.past = tuple(tuple(t.index_select(0, beams) for t in layer) for layer in self.past)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, beams)


def decode(model: Any, ids: Tensor, options: Options, model_kwargs: dict[str, Any]) -> Tensor:
    """Greedy search or sampling."""
    ids = ids.repeat_interleave(options.num_return_sequences, 0)
    steps = Steps(model, ids.shape[0], options, model_kwargs)
    running = torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)
    eos = torch.tensor(options.eos, device=ids.device, dtype=ids.dtype)
    while ids.shape[1] < options.max_length and bool(running.any()):
        scores = options.shape(steps.scores(ids), ids)
        if options.do_sample:
            p = options.narrow(scores).softmax(-1)
            token = torch.multinomial(p, 1, generator=options.generator).squeeze(1)
        else:
            token = scores.argmax(-1)
        token = torch.where(running, token, torch.full_like(token, options.pad or 0))
        ids = torch.cat([ids, token[:, None].to(ids.dtype)], dim=1)
        running = running & ~torch.isin(token, eos)
    return ids


@dataclass
class _Finished:
    """The best finished sequences of one prompt."""

    size: int
    items: list[tuple[float, Tensor]] = field(default_factory=list)

    def add(self, score: float, ids: Tensor) -> None:
        self.items = sorted([*self.items, (score, ids)], key=lambda item: -item[0])[: self.size]

    def closed(self, best_open: float, early: bool) -> bool:
        return len(self.items) == self.size and (early or self.items[-1][0] >= best_open)


def beam_search(model: Any, ids: Tensor, options: Options, model_kwargs: dict[str, Any]) -> Tensor:
    """Beam search, with sampling inside the beams when ``do_sample`` is set; scores are sums over length ** penalty."""
    batch, prompt, width = ids.shape[0], ids.shape[1], options.num_beams
    ids = ids.repeat_interleave(width, 0)
    steps = Steps(model, batch * width, options, model_kwargs)
    eos, device = set(options.eos), ids.device
    sums = torch.full((batch, width), -1e9, device=ids.device)
    sums[:, 0] = 0.0
    if options.do_sample:
        sums.zero_()
    done = [_Finished(width) for _ in range(batch)]
    closed = [False] * batch
    while ids.shape[1] < options.max_length and not all(closed):
        scores = options.shape(steps.scores(ids).log_softmax(-1), ids)
        total = (scores if not options.do_sample else options.narrow(scores)) + sums.view(-1, 1)
        vocab = total.shape[-1]
        total = total.view(batch, width * vocab)
        count = min(max(2, 1 + len(eos)) * width, total.shape[1])
        if options.do_sample:
            picked = torch.multinomial(total.softmax(-1), count, generator=options.generator)
            values, order = total.gather(1, picked).sort(descending=True, dim=1)
            picked = picked.gather(1, order)
        else:
            values, picked = total.topk(count, dim=1)
        rows, tokens, kept_sums = [], [], []
        length = ids.shape[1] + 1 - prompt
        # Read for all prompts at once: the host waits for a GPU at every reading.
        for b, (ranked, places) in enumerate(zip(values.tolist(), picked.tolist(), strict=True)):
            kept = []
            for rank, (value, place) in enumerate(zip(ranked, places, strict=True)):
                beam, token = divmod(place, vocab)
                row = b * width + beam
                if token in eos:
                    if rank < width and not closed[b]:
                        done[b].add(value / length**options.length_penalty, _append(ids[row], token))
                    continue
                if len(kept) < width:
                    rows.append(row)
                    tokens.append(token)
                    kept.append(value)
            kept_sums.append(kept + [-1e9] * (width - len(kept)))
            # "never" hopes for the best length there may be: sums are negative, so with a positive penalty the longest.
            hopeful = options.early_stopping == "never" and options.length_penalty > 0
            hoped = options.max_length - prompt if hopeful else length
            best = ranked[0] / hoped**options.length_penalty
            closed[b] = closed[b] or done[b].closed(best, options.early_stopping is True)
        order = upload(host_tensor(rows), device)
        ids = torch.cat([ids[order], upload(host_tensor(tokens, ids.dtype), device)[:, None]], dim=1)
        steps.reorder(order)
        sums = upload(torch.tensor(kept_sums, dtype=sums.dtype), device)
    length = max(1, ids.shape[1] - prompt)
    for b, last in enumerate(sums.tolist()):
        if not closed[b]:
            for beam in range(width):
                done[b].add(last[beam] / length**options.length_penalty, ids[b * width + beam])
    best = [item[1] for d in done for item in d.items[: options.num_return_sequences]]
    out = ids.new_full((len(best), max(len(row) for row in best)), options.pad or 0)
    for i, row in enumerate(best):
        out[i, : len(row)] = row
    return out


def _append(row: Tensor, token: int) -> Tensor:
    return torch.cat([row, row.new_tensor([token])])
