"""How new weights begin. What counting can find out needs no steps to be learnt, and on a short run steps are what is scarce.

`initialize` is called once, before the first step of a new model. Each part is an option of the recipe's ``init``:

- ``bias: unigram``       the output bias is the log frequency of the tokens
- ``positions: sinusoid`` the learned table begins as sinusoids in the first quarter of the dimensions
- ``words: spectral``     word vectors in the other three quarters from co-occurrence counts, see `xlm.training.spectral`
- ``heads: local``        in layer 0 heads look at the neighbours, in layer 1 they average the words of the sequence
- ``translation_steps``   steps in which the word vectors alone, without layers, learn to find translations
- ``residual``            factor of the matrices that write to the residual stream; small, a model begins as its word vectors

Shape suffixes: V vocabulary, H hidden, P dimensions of the positions (H / 4), W of the words (H - P), D width of a head.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm.data.random import keyed
from xlm.data.store import TokenStore
from xlm.errors import ConfigError
from xlm.families.registry import family_of
from xlm.training.schema import bounded, build
from xlm.training.spectral import cooccurrences, word_vectors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Init:
    """What the weights begin with where counting can say it: see the functions below."""

    bias: Literal["zero", "unigram"] = "zero"
    positions: Literal["normal", "sinusoid"] = "normal"
    words: Literal["normal", "spectral"] = "normal"
    heads: Literal["normal", "local"] = "normal"
    scale: float | None = bounded(None, above=0.0)
    """Size of an embedding's entries; None leaves all weights as the model makes them."""
    residual: float = bounded(1.0, low=0.0)
    translation_steps: int = bounded(0, low=0)
    translation_pairs: int = bounded(256, low=2)
    temperature: float = bounded(0.05, above=0.0)


def initialize(
    model: Any,
    options: Mapping[str, Any],
    *,
    text: Mapping[str, TokenStore],
    pairs: Mapping[str, TokenStore],
    probabilities: Mapping[str, float],
    seed: int,
) -> None:
    """Set the weights of a new masked language model in place.

    Args:
        model: a masked language model of any family.
        options: the recipe's ``init``, see `Init`; empty changes nothing.
        text, pairs: the training tokens of every language.
        probabilities: how often each language of ``text`` is drawn.
    """
    init = build(Init, options, "init")
    if init.scale is None:
        if others := [name for name in options if name != "scale"]:
            raise ConfigError(
                f"init: {', '.join(others)} without scale, the size of the word vectors: nothing would be set"
            )
        return
    if init.bias == "unigram" and not text:
        raise ConfigError("init.bias: unigram counts the text of mlm or clm, which the recipe does not train on")
    if init.words == "spectral" and not (text or pairs):
        raise ConfigError("init.words: spectral counts text or pairs: there are none")
    with torch.no_grad():
        config = model.config
        named = {getattr(config, key) for key in family_of(config).special_ids}
        special = sorted({3, config.vocab_size - 1, *(token for token in named if token is not None)})
        _matrices(model, init.scale, init.residual, seed)
        words_VH = model.get_input_embeddings().weight
        positions = model.roberta.embeddings.position_embeddings.weight
        reserved = words_VH.shape[1] // 4 if init.positions == "sinusoid" else 0
        if reserved:
            _sinusoids(positions, reserved, init.scale)
            words_VH[:, :reserved] *= 0.1
        if init.heads == "local":
            _local_heads(model, reserved)
        if init.bias == "unigram":
            model.get_output_embeddings().bias.copy_(_log_frequency(text, probabilities, special))
        if init.words == "spectral":
            counts = cooccurrences(text, pairs, words_VH.shape[0])
            width = words_VH.shape[1] - reserved
            vectors_VW = word_vectors(counts, special, width, seed) * (math.sqrt(width) * init.scale)
            known = vectors_VW.any(1)
            words_VH[known, reserved:] = vectors_VW[known]
            words_VH[special] *= 0.1
            log.info("word vectors of %d tokens from counts", int(known.sum()))
    if init.translation_steps and pairs:
        _translate(model, init, pairs, seed)


def _matrices(model: Any, scale: float, residual: float, seed: int) -> None:
    """Normal weights of size 0.6 / sqrt(inputs), embeddings of size ``scale``; a head that is more than the vocabulary's
    table begins as the identity: with a bias of 3 its GELU is nearly linear, and its norm takes the bias away again."""
    generator = torch.Generator().manual_seed(seed)
    layers, vocabulary = model.config.num_hidden_layers, model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not vocabulary:
            factor = residual / math.sqrt(2 * layers) if name.endswith("output.dense") else 1.0
            module.weight.normal_(0.0, 0.6 / math.sqrt(module.in_features), generator=generator).mul_(factor)
            module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, scale if "token_type" not in name else 1e-4, generator=generator)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
    head = getattr(model.lm_head, "dense", None)
    if head is not None:
        head.weight.mul_(0.1).add_(torch.eye(head.in_features))
        head.bias.fill_(3.0)


def _frequencies(reserved: int) -> Tensor:
    """Angles per position, from pi / 2 down to pi / 128: (P / 2,)."""
    return math.pi / 2 * torch.logspace(0, -6, reserved // 2, base=2)


def _sinusoids(table: Tensor, reserved: int, scale: float) -> None:
    angles = torch.arange(table.shape[0])[:, None] * _frequencies(reserved)
    table.zero_()
    table[:, : reserved // 2] = angles.sin() * (1.4 * scale)
    table[:, reserved // 2 : reserved] = angles.cos() * (1.4 * scale)


def _local_heads(model: Any, reserved: int) -> None:
    """Layer 0: head n looks at a token ``shift`` away: sin and cos of (position + shift) are a rotation of those of
    the position. Layer 1: as many heads as hold the word dimensions attend to all tokens alike and hand their words on."""
    layers = model.roberta.encoder.layer
    first = layers[0].attention.core
    width, half, frequencies = first.head_size, reserved // 2, _frequencies(max(reserved, 2))
    count, gain = min(width // 2, half), 2.2
    for head, shift in zip(range(first.heads), (-1, 1, -2, 2, -3, 3, -4, 4), strict=False):
        query, key = torch.zeros(width, first.query.in_features), torch.zeros(width, first.query.in_features)
        for j in range(count):
            at = j * half // count
            c, s = math.cos(frequencies[at] * shift), math.sin(frequencies[at] * shift)
            query[j, at], query[j, half + at] = gain * c, gain * s
            query[count + j, at], query[count + j, half + at] = -gain * s, gain * c
            key[j, at] = key[count + j, half + at] = gain
        rows = slice(head * width, (head + 1) * width)
        first.query.weight[rows] = query + first.query.weight[rows] * 0.1
        first.key.weight[rows] = key + first.key.weight[rows] * 0.1
    if len(layers) < 2:
        return
    second, output = layers[1].attention.core, layers[1].attention.output.dense
    words = second.query.in_features - reserved
    second.query.weight[:words] *= 0.05
    second.key.weight[:words] *= 0.05
    second.value.weight[:words] *= 0.1
    output.weight[:, :words] *= 0.1
    index = torch.arange(words)
    second.value.weight[index, reserved + index] += 1.0
    output.weight[reserved + index, index] += 0.1


def _log_frequency(text: Mapping[str, TokenStore], probabilities: Mapping[str, float], special: list[int]) -> Tensor:
    share = sum(probabilities[language] * store.counts / max(store.counts.sum(), 1) for language, store in text.items())
    share = np.asarray(share, np.float64)
    share[special] = 0.0
    return torch.from_numpy(np.log(share + 1e-6)).float()


def _translate(model: Any, init: Init, pairs: Mapping[str, TokenStore], seed: int) -> None:
    """InfoNCE over sums of word vectors: what the contrastive objective is to a model whose layers do nothing yet."""
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        table = model.roberta.embeddings.position_embeddings.weight.detach()
    size = words.shape[1]
    optimizer = torch.optim.Adam([words], betas=(0.9, 0.99), fused=True)
    languages = [language for language, store in pairs.items() if len(store) >= 4]
    weights = np.array([len(pairs[language]) for language in languages], float) ** 0.5
    bos, eos, pad = (getattr(model.config, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    rng = keyed(seed, "translate")
    wanted = torch.arange(init.translation_pairs)
    for step in range(init.translation_steps):
        optimizer.param_groups[0]["lr"] = 0.06 * (init.scale or 0.0) * (1 - step / init.translation_steps)
        store = pairs[languages[rng.choice(len(languages), p=weights / weights.sum())]]
        chosen = rng.integers(len(store) // 2, size=init.translation_pairs)
        rows = [np.concatenate([[bos], store.sentence(2 * k + side)[:62], [eos]]) for side in (0, 1) for k in chosen]
        ids = nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=pad)
        real = ids != pad
        vectors = functional.embedding(ids, words) + table[2 : 2 + ids.shape[1]]
        pooled = (functional.layer_norm(vectors, (size,)) * real[..., None]).sum(1)
        pooled = functional.normalize(pooled, dim=-1)
        similarity = pooled[: len(wanted)] @ pooled[len(wanted) :].T / init.temperature
        loss = functional.cross_entropy(similarity, wanted) + functional.cross_entropy(similarity.T, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            log.info(
                "word vectors find translations: step %d of %d, loss %.3f",
                step,
                init.translation_steps,
                float(loss.detach()) / 2,
            )
    for parameter in model.parameters():
        parameter.grad = None
