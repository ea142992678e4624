"""What stands on top of the encoder. Heads take rows or (b, s, h) states and know nothing of the layers below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.backends.torch.losses import one_each, places
from xlm.backends.torch.ops import PLAIN, activation
from xlm.errors import ConfigError, InputError


class Pooler(nn.Module):
    """``tanh(dense(first token))``."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(b, s, h) -> (b, h)."""
        return torch.tanh(self.dense(hidden_states[:, 0]))


class LMHead(nn.Module):
    """Dense, gelu, norm, and a decoder tied to the word embeddings (XLM-R and XL)."""

    adaptive = False

    def __init__(self, hidden: int, vocab: int, eps: float) -> None:
        super().__init__()
        self.ops = PLAIN
        self.dense = nn.Linear(hidden, hidden)
        self.layer_norm = nn.LayerNorm(hidden, eps=eps)
        self.decoder = nn.Linear(hidden, vocab)
        self.bias = nn.Parameter(torch.zeros(vocab))
        self.decoder.bias = self.bias

    def forward(self, rows: Tensor) -> Tensor:
        """(..., h) -> (..., vocab)."""
        scores = self.ops.linear(self.decoder, self.features(rows.reshape(-1, rows.shape[-1])))
        return scores.view(*rows.shape[:-1], scores.shape[-1])

    def features(self, rows: Tensor) -> Tensor:
        """The states that the decoder scores: (..., h) -> (..., h)."""
        return self.ops.norm(self.layer_norm, self.ops.linear_act(self.dense, rows, F.gelu))

    def tie(self, words: nn.Parameter | None) -> None:
        """Make the two biases one and, with ``words``, the decoder's weight the word embeddings."""
        self.decoder.bias = self.bias
        if words is not None:
            self.decoder.weight = words

    def replace(self, decoder: Any) -> None:
        """Take another decoder; its bias becomes the head's."""
        self.decoder = decoder
        if getattr(decoder, "bias", None) is not None:
            self.bias = decoder.bias

    def resize(self, count: int, grown: Callable[[Tensor, int], Tensor]) -> None:
        """Score ``count`` tokens; ``grown(tensor, rows)`` makes the longer or shorter tensors."""
        new = _bare_linear(self.decoder, count, grown)
        self.decoder, self.bias = new, new.bias


def _bare_linear(old: Any, rows: int, grown: Callable[[Tensor, int], Tensor]) -> nn.Linear:
    new = nn.Linear(old.in_features, rows, device="meta")
    new.weight = nn.Parameter(grown(old.weight, rows), old.weight.requires_grad)
    new.bias = nn.Parameter(grown(old.bias, rows), old.bias.requires_grad)
    return new


class XLMHead(nn.Module):
    """A decoder alone, or an adaptive softmax (Grave et al. 2017) with weights of its own (XLM)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.ops = PLAIN
        self.adaptive = bool(config.asm)
        if self.adaptive:
            self.decoder: nn.Module = nn.AdaptiveLogSoftmaxWithLoss(
                config.emb_dim,
                config.vocab_size,
                cutoffs=list(config.asm_cutoffs),
                div_value=config.asm_div_value,
                head_bias=True,
            )
        else:
            self.decoder = nn.Linear(config.emb_dim, config.vocab_size)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., h) -> (..., vocab): logits, or log-probabilities with the adaptive softmax."""
        flat = rows.reshape(-1, rows.shape[-1])
        scores: Any = self.decoder.log_prob(flat) if self.adaptive else self.ops.linear(self.decoder, flat)  # type: ignore[operator]
        return scores.view(*rows.shape[:-1], scores.shape[-1])

    def features(self, rows: Tensor) -> Tensor:
        """The states that the decoder scores: the rows themselves."""
        return rows

    def tie(self, words: nn.Parameter | None) -> None:
        """Make the decoder's weight the word embeddings; an adaptive softmax has no such weight and is never tied."""
        if words is not None and not self.adaptive:
            self.decoder.weight = words

    def replace(self, decoder: nn.Module) -> None:
        """Take another decoder."""
        self.decoder = decoder

    def resize(self, count: int, grown: Callable[[Tensor, int], Tensor]) -> None:
        """Score ``count`` tokens; ``grown(tensor, rows)`` makes the longer or shorter tensors."""
        if self.adaptive:
            raise InputError(f"new_num_tokens={count}: an adaptive softmax cannot be resized")
        self.decoder = _bare_linear(self.decoder, count, grown)


class ClassificationHead(nn.Module):
    """Dense, tanh and projection of the first token, with dropout before each (XLM-R and XL)."""

    def __init__(self, hidden: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden, labels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(b, s, h) -> (b, labels)."""
        x = torch.tanh(self.dense(self.dropout(hidden_states[:, 0])))
        return self.out_proj(self.dropout(x))


class SequenceSummary(nn.Module):
    """One vector a sequence, by the ``summary_*`` keys of an XLM config."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.kind = config.summary_type
        if self.kind == "attn":
            raise ConfigError("summary_type='attn': must be one of first, last, mean, cls_index")
        self.summary: nn.Module = nn.Identity()
        if config.summary_use_proj:
            to_labels = config.summary_proj_to_labels and config.num_labels > 0
            self.summary = nn.Linear(config.emb_dim, config.num_labels if to_labels else config.emb_dim)
        name = getattr(config, "summary_activation", None)
        self.act: Callable[[Tensor], Tensor] | None = activation(name) if name else None
        self.first_dropout = nn.Dropout(getattr(config, "summary_first_dropout", 0.0) or 0.0)
        self.last_dropout = nn.Dropout(getattr(config, "summary_last_dropout", 0.0) or 0.0)

    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """(b, s, h) -> (b, h or labels); ``cls_index`` (b,) chooses tokens where ``summary_type`` says so."""
        if self.kind == "first":
            x = hidden_states[:, 0]
        elif self.kind == "last":
            x = hidden_states[:, -1]
        elif self.kind == "mean":
            x = hidden_states.mean(dim=1)
        else:
            x = take_token(hidden_states, cls_index)
        x = self.summary(self.first_dropout(x))
        return self.last_dropout(x if self.act is None else self.act(x))


def take_token(hidden_states: Tensor, index: Tensor | None) -> Tensor:
    """The state (b, h) of one token a sequence: (b,) indices, the last token where there are none."""
    if index is None:
        return hidden_states[:, -1]
    index, length = places("cls_index", index, hidden_states.shape[0]), hidden_states.shape[1]
    if not torch.compiler.is_compiling() and bool(((index < 0) | (index >= length)).any()):
        raise InputError(f"token index {index.tolist()}: must be from 0 to {length - 1}")
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), index]


def forbid(scores: Tensor, p_mask: Tensor | None) -> Tensor:
    """Push the scores of places where ``p_mask`` is 1 out of reach."""
    if p_mask is None:
        return scores
    far = 65500.0 if scores.dtype == torch.float16 else 1e30
    p_mask = p_mask.to(scores.dtype)
    return scores * (1 - p_mask) - far * p_mask


def check_p_mask(p_mask: Tensor | None, batch: int, length: int) -> None:
    """Refuse a ``p_mask`` of another shape than the tokens' (b, s)."""
    if p_mask is not None and tuple(p_mask.shape) != (batch, length):
        raise InputError(f"p_mask of shape {tuple(p_mask.shape)}: must be {(batch, length)} like the input")


class StartLogits(nn.Module):
    """Scores of an answer's first token."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, 1)

    def forward(self, hidden_states: Tensor, p_mask: Tensor | None = None) -> Tensor:
        """(b, s, h) -> (b, s)."""
        return forbid(self.dense(hidden_states).squeeze(-1), p_mask)


class EndLogits(nn.Module):
    """Scores of an answer's last token, given its first."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * hidden, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=eps)
        self.dense_1 = nn.Linear(hidden, 1)

    def forward(self, hidden_states: Tensor, start_states: Tensor, p_mask: Tensor | None = None) -> Tensor:
        """States (..., s, h) and the start's state, broadcast to them -> (..., s)."""
        both = torch.cat([hidden_states, start_states.expand_as(hidden_states)], dim=-1)
        x = self.dense_1(self.LayerNorm(torch.tanh(self.dense_0(both))))
        return forbid(x.squeeze(-1), p_mask)


class AnswerClass(nn.Module):
    """Score of a question having no answer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * hidden, hidden)
        self.dense_1 = nn.Linear(hidden, 1, bias=False)

    def forward(self, start_states: Tensor, token_states: Tensor) -> Tensor:
        """(b, h) and (b, h) -> (b,)."""
        return self.dense_1(torch.tanh(self.dense_0(torch.cat([start_states, token_states], dim=-1)))).squeeze(-1)


class BeamQAHead(nn.Module):
    """The answer head of XLNet's paper (Yang et al. 2019) that XLM's question answering uses."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.start_n_top, self.end_n_top = config.start_n_top, config.end_n_top
        self.start_logits = StartLogits(config.emb_dim)
        self.end_logits = EndLogits(config.emb_dim, config.layer_norm_eps)
        self.answer_class = AnswerClass(config.emb_dim)

    def loss(
        self,
        x: Tensor,
        start: Tensor,
        end: Tensor,
        cls_index: Tensor | None,
        is_impossible: Tensor | None,
        p_mask: Tensor | None,
    ) -> Tensor:
        """Training loss from gold positions (b,) or (b, 1); ``is_impossible``, of the same shape, adds half its own loss."""
        batch, length, _ = x.shape
        start, end = places("start_positions", start, batch), places("end_positions", end, batch)
        check_p_mask(p_mask, batch, length)
        for name, place in (("start_positions", start), ("end_positions", end)):
            if not torch.compiler.is_compiling() and bool(((place < 0) | (place >= length)).any()):
                raise InputError(f"{name}={place.tolist()}: must be from 0 to {length - 1}")
        start_state = take_token(x, start)
        total = (
            F.cross_entropy(self.start_logits(x, p_mask), start)
            + F.cross_entropy(self.end_logits(x, start_state[:, None], p_mask), end)
        ) / 2
        if cls_index is not None and is_impossible is not None:
            score = self.answer_class(start_state, take_token(x, cls_index))
            wanted = one_each("is_impossible", is_impossible, batch).to(score.dtype)
            total = total + 0.5 * F.binary_cross_entropy_with_logits(score, wanted)
        return total

    def search(self, x: Tensor, cls_index: Tensor | None, p_mask: Tensor | None) -> tuple[Tensor, ...]:
        """Best starts and, for each, best ends; see :class:`xlm.outputs.XLMForQuestionAnsweringOutput`."""
        batch, length, hidden = x.shape
        check_p_mask(p_mask, batch, length)
        for key in ("start_n_top", "end_n_top"):
            if getattr(self, key) > length:
                raise InputError(f"{key}={getattr(self, key)}: the input has {length} tokens")
        start_p = self.start_logits(x, p_mask).softmax(dim=-1)
        start_top, start_index = start_p.topk(self.start_n_top, dim=-1)
        starts = x.gather(1, start_index[..., None].expand(-1, -1, hidden))
        # (b, starts, s): the ends for each start.
        wide = x[:, None].expand(-1, self.start_n_top, -1, -1)
        ends = self.end_logits(wide, starts[:, :, None], None if p_mask is None else p_mask[:, None])
        end_top, end_index = ends.softmax(dim=-1).topk(self.end_n_top, dim=-1)
        flat = (t.transpose(1, 2).flatten(1) for t in (end_top, end_index))
        expected_start = torch.einsum("bsh,bs->bh", x, start_p)
        cls = self.answer_class(expected_start, take_token(x, cls_index))
        end_top, end_index = flat
        return start_top, start_index, end_top, end_index, cls
