"""Greedy search, sampling and beam search over a :class:`~xlm.backends.torch.seq2seq.Writer`.

Shapes: B sentences still open, W beams, C candidates a sentence, V vocabulary, L the longest target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from xlm.backends.torch.decoding import Options

_NEVER = -1e9
"""The score of a place that no hypothesis has taken."""


class Steps(Protocol):
    """What a search needs of a model."""

    def scores(self, ids: Tensor) -> Tensor:
        """Scores (rows, V) of what follows the new tokens (rows, new) of every row."""
        ...

    def keep(self, rows: Tensor, sources: Tensor | None) -> None:
        """Go on with these rows, and with these sources."""
        ...


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        sequences: (n, length) ids, padded behind their end.
        scores: (n,) of beams: summed log-probabilities over length ** penalty; zeros without beams.
    """

    sequences: Tensor
    scores: Tensor


def greedy_search(steps: Steps, ids: Tensor, options: Options, limits: Tensor | None = None) -> Found:
    """The best token each time, or one drawn at random; a row leaves when it ends.

    Args:
        ids: (b, t) how the rows begin.
        limits: (b,) the longest each may become; ``None``: ``options.max_length``.
    """
    batch, begun = ids.shape
    pad = options.pad or 0
    out = ids.new_full((batch, options.max_length), pad)
    out[:, :begun] = ids
    eos = torch.tensor(options.eos, device=ids.device, dtype=ids.dtype)
    rows = torch.arange(batch, device=ids.device)
    new, length = ids, begun
    while len(rows) and length < options.max_length:
        scores = options.shape(steps.scores(new), out[rows, :length])
        if options.do_sample:
            p = options.narrow(scores).softmax(-1)
            token = torch.multinomial(p, 1, generator=options.generator).squeeze(1)
        else:
            token = scores.argmax(-1)
        out[rows, length] = token
        length += 1
        going = ~torch.isin(token, eos)
        if limits is not None:
            going &= length < limits[rows]
        new = token[:, None]
        if not bool(going.all()):
            left = going.nonzero().squeeze(1)
            rows, new = rows[left], new[left]
            if len(left):
                steps.keep(left, left)
    return Found(out[:, :length], torch.zeros(batch, device=ids.device))


def beam_search(steps: Steps, ids: Tensor, options: Options, limits: Tensor | None = None) -> Found:
    """Beam search, with draws inside the beams when ``do_sample`` is set; arguments as of :func:`greedy_search`.

    Each step keeps the W best open hypotheses of a sentence. Ended ones among its W best candidates compete by summed
    log-probability over length ** ``length_penalty`` for W places. A sentence is closed when the places are taken and,
    with ``early_stopping``, at once; else when its best open hypothesis at its present length could not take a place
    (``False``), or at the best length there may be (``"never"``).
    """
    beams = _Beams(steps, ids, options, limits)
    new = ids
    while beams.open:
        new = beams.advance(steps.scores(new))
    return beams.found()


class _Beams:
    """The hypotheses of all open sentences, and the best ended ones of every sentence."""

    def __init__(self, steps: Steps, ids: Tensor, options: Options, limits: Tensor | None) -> None:
        self.steps, self.options = steps, options
        batch, self.begun = ids.shape
        device, width, self.longest = ids.device, options.num_beams, options.max_length
        self.width = width
        self.eos = torch.tensor(options.eos, device=device, dtype=ids.dtype)
        self.candidates = max(2, 1 + len(options.eos)) * width
        self.ids = ids[:, None]  # (B, 1 and then W, length)
        self.sums = torch.zeros(batch, 1, device=device)
        self.limits = torch.full((batch,), self.longest, device=device) if limits is None else limits
        self.sentences = torch.arange(batch, device=device)  # (B,) the open ones
        self.open = self.begun < self.longest and batch > 0
        # Ended hypotheses of all sentences, best first.
        self.ended = ids.new_full((batch, width, self.longest), options.pad or 0)
        self.ended[:, :, : self.begun] = ids[:, None]
        self.ended_scores = torch.full((batch, width), _NEVER, device=device)
        self.ended_lengths = torch.full((batch, width), self.begun, device=device)

    def advance(self, scores: Tensor) -> Tensor:
        """Extend all hypotheses by the scores (rows, V) of their next tokens; returns the tokens (rows, 1) of the next."""
        options, width = self.options, self.width
        values_BC, beams_BC, tokens_BC = self._candidates(scores)
        length = self.ids.shape[2] + 1
        hits_BC = torch.isin(tokens_BC, self.eos) | (length >= self.limits)[:, None]
        if bool(hits_BC[:, :width].any()):
            self._end(values_BC, beams_BC, tokens_BC, hits_BC, length)
        going_BC = values_BC.masked_fill(hits_BC, _NEVER)
        self.sums, order_BW = going_BC.topk(width, dim=1)
        beams_BW, tokens_BW = beams_BC.gather(1, order_BW), tokens_BC.gather(1, order_BW)
        self.ids = torch.cat([_take(self.ids, beams_BW), tokens_BW[:, :, None]], dim=2)

        best_B = self.sums[:, 0]
        if options.early_stopping == "never" and options.length_penalty > 0:
            best_B = best_B / (self.limits - self.begun).float() ** options.length_penalty
        else:
            best_B = best_B / (length - self.begun) ** options.length_penalty
        worst_B = self.ended_scores[self.sentences].amin(1)
        open_B = (best_B > worst_B) & (length < self.limits)
        if options.early_stopping is True:
            open_B &= worst_B <= _NEVER
        first = torch.arange(0, len(scores), len(scores) // len(open_B), device=scores.device)
        rows = first[:, None] + beams_BW
        left = None
        if not bool(open_B.all()):
            left = open_B.nonzero().squeeze(1)
            self.ids, self.sums, rows = self.ids[left], self.sums[left], rows[left]
            self.limits, self.sentences = self.limits[left], self.sentences[left]
        self.open = len(self.sentences) > 0
        if self.open:
            self.steps.keep(rows.reshape(-1), left)
        return self.ids[:, :, -1].reshape(-1, 1)

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The C best continuations of every sentence, best first: summed log-probabilities, beams and tokens (B, C)."""
        options, sentences = self.options, len(self.sentences)
        sums = self.sums.reshape(-1, 1)
        if options.do_sample or options.wants_normal:
            scores = scores.log_softmax(-1)
        else:  # the normaliser alone: log-probabilities of the whole vocabulary are needed nowhere
            sums = sums - scores.logsumexp(-1, keepdim=True)
        scores = options.shape(scores, self.ids.flatten(0, 1))
        each = min(self.candidates, scores.shape[1])
        if options.do_sample:
            scores = options.narrow(scores)
            # The largest of scores with Gumbel noise are a draw without replacement.
            noise = torch.empty_like(scores).exponential_(generator=options.generator).log_()
            noisy, tokens = (scores + sums - noise).topk(each, dim=1)
            values = scores.gather(1, tokens) + sums
        else:
            values, tokens = scores.topk(each, dim=1)
            values = noisy = values + sums
        rank = noisy.view(sentences, -1)
        chosen = rank.topk(min(self.candidates, rank.shape[1]), dim=1).indices
        values, tokens = values.view(sentences, -1).gather(1, chosen), tokens.view(sentences, -1).gather(1, chosen)
        beams = chosen // each
        if options.do_sample:
            values, order = values.sort(dim=1, descending=True)
            beams, tokens = beams.gather(1, order), tokens.gather(1, order)
        return values, beams, tokens

    def _end(self, values: Tensor, beams: Tensor, tokens: Tensor, hits: Tensor, length: int) -> None:
        """Let the hypotheses that end among the W best of a sentence compete with those that ended before."""
        width, at = self.width, self.sentences
        values, beams, tokens, hits = (t[:, :width] for t in (values, beams, tokens, hits))
        scores = values / (length - self.begun) ** self.options.length_penalty
        scores = scores.masked_fill(~hits, -torch.inf)
        rows = self.ended.new_full((*scores.shape, self.longest), self.options.pad or 0)
        rows[:, :, : length - 1] = _take(self.ids, beams)
        rows[:, :, length - 1] = tokens
        all_scores, order = torch.cat([self.ended_scores[at], scores], 1).topk(width, dim=1)
        lengths = torch.cat([self.ended_lengths[at], torch.full_like(tokens, length)], 1)
        self.ended[at] = _take(torch.cat([self.ended[at], rows], 1), order)
        self.ended_scores[at] = all_scores
        self.ended_lengths[at] = lengths.gather(1, order)

    def found(self) -> Found:
        """The best ended hypotheses of every sentence."""
        many = self.options.num_return_sequences
        length = int(self.ended_lengths[:, :many].max()) if len(self.ended) else self.begun
        return Found(self.ended[:, :many, :length].flatten(0, 1), self.ended_scores[:, :many].flatten())


def _take(rows: Tensor, order: Tensor) -> Tensor:
    """``rows`` (B, n, L) at the indices ``order`` (B, m): (B, m, L)."""
    return rows.gather(1, order[:, :, None].expand(-1, -1, rows.shape[2]))


__all__ = ["Found", "Options", "Steps", "beam_search", "greedy_search"]
