"""The engine: a model and its tokenizer behind a few plain calls on lists of texts.

    engine = xlm.load()                               # the bundled model; or a folder, or a name on the hub
    engine.fill_mask(["Paris is the <mask> of France."])
    engine.embed(["a text", "un texte"])              # (2, hidden), unit length

Every call takes its inputs in any order and length and answers in their order. Inside, rows are sorted by length and run
packed, without padding, a bounded number of tokens at a time; so an answer does not depend on what else was asked.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xlm.backends.torch.buckets import Bucketed
from xlm.backends.torch.reductions import pool_rows, top_tokens
from xlm.backends.torch.transfer import host_tensor, upload
from xlm.batches.batch import Batch
from xlm.batches.packing import split_budget
from xlm.errors import CheckpointError, InputError
from xlm.inference.answers import Answers, marked
from xlm.inference.embedding import linear_rows, sparse_weights
from xlm.inference.inputs import Input, Rows
from xlm.inference.language import Language, languages_of, speak
from xlm.inference.loading import Loaded, load_parts, tasks_of
from xlm.inference.long import LongTexts
from xlm.inference.memory import ROWS_A_PACK, in_halves
from xlm.inference.reading import Pack, Read, Wanted, pack_ids, read
from xlm.inference.translating import Translates
from xlm.tasks import fill
from xlm.tasks.retrieve import POOLINGS, normalized

Floats = NDArray[np.float32]
Packs = Callable[[Sequence[Sequence[int]], int | None], Iterator[Pack]]
"""Runs rows of ids in a language of the model's language table, or in none."""

TOKENS_A_PACK = 1024
"""Tokens that run at once on a CPU: enough to keep the cores busy, little enough to stay in their caches."""
TOKENS_A_PACK_GPU = 65536
MASKS_AT_ONCE = 64
"""Rows of logits that exist at once: 64 rows of XLM-R's 250,002 are 64 MB."""


class Engine(Answers, LongTexts, Translates):
    """A loaded model that answers in plain Python and NumPy; :func:`load` makes one.

    Attributes:
        name: the folder or name it was loaded from.
        folder: the folder with its files.
        dtype: what the weights are computed in.
        device: where they are.
        batch_invariant: whether an answer depends on its own text alone, to the last bit.
        max_tokens: the longest input in tokens, special ones included.
        hidden_size: the width of states and embeddings.
        computed_by: which operations were chosen for this processor.
        states: a packed batch -> its last hidden states (tokens, hidden), compiled where that was asked for.
        tasks: what the model can be asked: ``embed``, ``fill-mask``, ``classify``, ...
        lang: the language of the texts; may be set at any time, see :func:`load`.
    """

    def __init__(self, parts: Loaded) -> None:
        self.model, self.tokenizer = parts.model, parts.tokenizer
        self.name, self.dtype, self.device = parts.name, parts.dtype, parts.device
        self.folder, self.batch_invariant = parts.folder, parts.batch_invariant
        spec = parts.spec
        self.max_tokens, self.hidden_size = spec.max_tokens, spec.hidden_size
        self.embedding = parts.embedding
        if self.embedding.max_tokens is not None:
            self.max_tokens = min(self.max_tokens, self.embedding.max_tokens)
        self._rows = Rows(parts.tokenizer, spec.vocab_size, self.max_tokens)
        self.tasks = tasks_of(parts.model)
        self._tokens: list[str] = []
        self._run: Packs = self._own_packs
        self.states: Callable[[Batch], Tensor] = Bucketed(parts.model) if parts.compiled else parts.model.states
        self.computed_by: str = parts.model.computed_by
        self._language: Language = Language(None, None)
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"Engine({self.name!r}, dtype={self.dtype!r}, device={str(self.device)!r})"

    @property
    def languages(self) -> tuple[str, ...]:
        """What ``lang`` may be; empty where the model reads all languages alike."""
        return languages_of(self.model, self.tokenizer)

    @property
    def lang(self) -> str | None:
        """The language that texts are in, where it makes a difference; None: English rules, no language embeddings."""
        return self._language.name

    @lang.setter
    def lang(self, name: str | None) -> None:
        self._language = speak(self.model, self.tokenizer, name, self.name)

    @property
    def plain_text(self) -> bool:
        """Whether what looks like a special token in a text (``<mask>``, ``</s>``) is read as its characters; may be set."""
        return bool(self.tokenizer.split_special_tokens)

    @plain_text.setter
    def plain_text(self, plain: bool) -> None:
        self.tokenizer.split_special_tokens = plain

    @property
    def lang_id(self) -> int | None:
        """The row of the model's language table that is added to every token; None: none is."""
        return self._language.number

    def speaking(self, lang: str | None) -> Engine:
        """An engine on the same weights for texts in another language; this one, and its other users, stay as they are.

        Raises:
            InputError: as when ``lang`` is set.
        """
        other = copy.copy(self)
        other.tokenizer = copy.copy(self.tokenizer)  # it keeps the rules of words as an attribute
        other._rows = Rows(other.tokenizer, self._rows.vocab_size, self.max_tokens)
        other.lang = lang
        return other

    def encode(self, inputs: Sequence[Input], *, truncate: bool = False) -> list[Floats]:
        """The last hidden states of every input, special tokens included: float32 arrays (tokens_i, hidden).

        Args:
            inputs: texts, pairs of texts (tuples of two), or lists of ids, taken exactly as they are.
            truncate: cut what is longer than the model instead of refusing it.

        Raises:
            InputError: an input that is none of these, has an id outside the vocabulary, or is too long.
            CheckpointError: states that are not finite, so damaged weights.
        """
        rows = self._rows(inputs, truncate=truncate)
        found: list[Floats] = [np.zeros((0, self.hidden_size), np.float32)] * len(rows)
        for members, lengths, (states,) in self._read(rows, lambda states, *_: [states]):
            for index, part in zip(members, np.split(states, np.cumsum(lengths)[:-1]), strict=True):
                found[index] = need_finite(part, f"the states of inputs[{index}]")
        return found

    def embed(
        self,
        texts: Sequence[Input],
        pooling: Literal["mean", "cls", "max"] | None = None,
        normalize: bool | None = None,
        *,
        prompt: str | None = None,
        truncate: bool = False,
        long: Literal["refuse", "windows"] = "refuse",
        overlap: int | None = None,
    ) -> Floats:
        """One vector an input: float32 (n, hidden); (0, hidden) for no inputs.

        Args:
            texts: what :meth:`encode` takes.
            pooling: ``mean`` or ``max`` over all tokens, or ``cls``: the first token. None: what the checkpoint's folder
                says (see `xlm.inference.embedding`), else ``mean``.
            normalize: scale every vector to unit length, so that dot products are cosines. None: as the folder says,
                else True.
            prompt: the name of one of the checkpoint's prompts, put before every text. None: its default one, if any.
            truncate: cut what is longer than the model instead of refusing it.
            long: ``windows`` reads texts longer than the model in windows and pools over all their tokens (with ``cls``:
                over the windows). For a vector a part of the text see :meth:`embed_chunks`.
            overlap: tokens that neighbouring windows share; None: 64, or half a window where that is less.

        Raises:
            InputError: as in :meth:`encode`, an unknown ``pooling``, ``prompt`` or ``long``, both ``truncate`` and windows.
            CheckpointError: vectors that are not finite, so damaged weights.
        """
        kind = self.pooling(pooling)
        if long not in ("refuse", "windows"):
            raise InputError(f"long is {long!r}: it must be refuse or windows")
        if long == "windows":
            if truncate:
                raise InputError("truncate=True and long='windows': long texts are either cut or read whole")
            return self.finished(self._long_vectors(texts, kind, prompt, overlap), normalize)
        rows = self.embedding_rows(texts, prompt=prompt, truncate=truncate)
        found = np.zeros((len(rows), self.hidden_size), np.float32)
        for members, _, (vectors,) in self._read(rows, lambda states, lengths, _: [pool_rows(states, lengths, kind)]):
            found[members] = vectors
        return self.finished(found, normalize)

    def pooling(self, asked: str | None) -> str:
        """How vectors are pooled: as asked, else as the checkpoint's folder says."""
        found = asked or self.embedding.pooling
        if found not in POOLINGS:
            raise InputError(f"pooling is {found!r}: it must be one of {', '.join(POOLINGS)}")
        return found

    def embedding_rows(
        self, texts: Sequence[Input], *, prompt: str | None = None, truncate: bool = False
    ) -> list[list[int]]:
        """The ids that :meth:`embed` runs for every text: its prompt before it, special tokens included."""
        return self._rows(self._prompted(texts, prompt), truncate=truncate, name="texts")

    def finished(self, vectors: Floats, normalize: bool | None) -> Floats:
        """Pooled vectors as :meth:`embed` gives them: of unit length, if asked or if the checkpoint's folder says so.

        Raises:
            CheckpointError: they are not finite.
        """
        need_finite(vectors, "the vectors of texts")
        if not self.embedding.said and "embed" not in self.tasks:
            _warn_of_vectors(self.name, type(self.model).__name__)
        return normalized(vectors) if (self.embedding.normalize if normalize is None else normalize) else vectors

    def embed_all(
        self, texts: Sequence[Input], *, prompt: str | None = None, truncate: bool = False
    ) -> list[dict[str, Any]]:
        """All vectors of a text in one forward, for checkpoints with bge-m3's heads.

        Returns:
            One dictionary an input: ``dense`` (hidden,), ``sparse`` {id: weight > 0} and ``multi`` (tokens - 1, width) of
            unit length, the first token left out; those of the two heads that the checkpoint has.

        Raises:
            InputError: as in :meth:`embed`.
        """
        rows = self.embedding_rows(texts, prompt=prompt, truncate=truncate)
        heads, special, invariant = self.embedding, set(self.tokenizer.all_special_ids), self.batch_invariant
        found: list[dict[str, Any]] = [{} for _ in rows]

        def wanted(states: Tensor, lengths: list[int], _: list[int]) -> list[Tensor]:
            made = [pool_rows(states, lengths, heads.pooling)]
            if heads.sparse is not None:
                made.append(linear_rows(heads.sparse, states, lengths, batch_invariant=invariant))
            if heads.multi is not None:
                made.append(linear_rows(heads.multi, states, lengths, first=1, batch_invariant=invariant))
            return made

        for members, lengths, arrays in self._read(rows, wanted):
            dense, *others = (need_finite(array, "the vectors of texts") for array in arrays)
            dense = normalized(dense) if heads.normalize else dense
            for index, vector in zip(members, dense, strict=True):
                found[index]["dense"] = vector
            ends = np.cumsum(lengths)[:-1]
            if heads.sparse is not None:
                for index, weights in zip(members, np.split(others.pop(0)[:, 0], ends), strict=True):
                    found[index]["sparse"] = sparse_weights(weights, rows[index], special)
            if heads.multi is not None:
                for index, part in zip(members, np.split(others[0], ends - np.arange(1, len(lengths))), strict=True):
                    found[index]["multi"] = normalized(part)
        return found

    def _prompted(self, texts: Sequence[Input], prompt: str | None) -> Sequence[Input]:
        before = self.embedding.prompt(prompt)
        return [before + text if isinstance(text, str) else text for text in texts] if before else texts

    def fill_mask(self, texts: Sequence[str], top_k: int = 5, *, truncate: bool = False) -> list[dict[str, Any]]:
        """The most probable tokens for every mask of every text.

        Returns:
            One ``{"text", "masks"}`` a text; ``masks`` has for every mask, from left to right, the ``top_k`` candidates
            ``{"token", "id", "probability", "text"}``, best first. With several masks each is filled on its own: the
            others stay masks in a candidate's text.

        Raises:
            InputError: a text without a mask or longer than the model, ``top_k`` below 1, or a model without a
                language-model head.

        With ``truncate`` every answer has ``truncated``: whether its text was cut.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise InputError(f"top_k is {top_k!r}: it must be an integer of at least 1")
        if not hasattr(self.model, "lm_logits") or "translate" in self.tasks:
            raise InputError(f"{self.name} is a {type(self.model).__name__}: fill_mask needs a language-model head")
        masked = self._masked(texts, truncate)
        found: list[dict[str, Any]] = [{} for _ in masked]
        vocabulary = self._vocabulary()

        def best(logits: Tensor) -> tuple[Tensor, Tensor]:
            return top_tokens(logits, min(top_k, len(vocabulary)), len(vocabulary))

        rows = [text.ids for text in masked]
        for members, _, (ids, shares) in self._scored(rows, [text.positions for text in masked], best):
            ends = np.cumsum([len(masked[index].positions) for index in members])[:-1]
            for index, best_ids, of_each in zip(members, np.split(ids, ends), np.split(shares, ends), strict=True):
                answers = fill.described(masked[index], best_ids, of_each, vocabulary)
                found[index] = {"text": masked[index].text, "masks": answers}
        return marked(found, self._were_cut(texts, [len(text.ids) for text in masked])) if truncate else found

    def ids(self, inputs: Sequence[Input], *, truncate: bool = False) -> list[list[int]]:
        """The ids of every input, special tokens included."""
        return self._rows(inputs, truncate=truncate)

    def guesses(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[list[int]]:
        """The language-model head's first guess at chosen places of rows of ids; no other place is scored."""
        found: list[list[int]] = [[] for _ in rows]
        for members, _, (best,) in self._scored(rows, places, lambda logits: [logits.argmax(-1)]):
            ends = np.cumsum([len(places[index]) for index in members])[:-1]
            for index, part in zip(members, np.split(best, ends), strict=True):
                found[index] = part.tolist()
        return found

    def truncated(self, inputs: Sequence[Input], *, prompt: str | None = None, marks: bool = False) -> list[int]:
        """The indices of inputs that are longer than the model, their prompt before them, and so would be cut.

        With ``marks`` special tokens in texts are tokens, as :meth:`fill_mask` reads them whatever ``plain_text`` says.
        """
        rows = self._rows(self._prompted(inputs, prompt), truncate=False, check=False, marks=marks)
        return [index for index, row in enumerate(rows) if len(row) > self.max_tokens]

    def _were_cut(self, texts: Sequence[str], lengths: Sequence[int]) -> set[int]:
        """Of texts that were cut to ``lengths`` those that were longer: only the ones that fill the model can have been."""
        full = [index for index, length in enumerate(lengths) if length >= self.max_tokens]
        return {full[index] for index in self.truncated([texts[index] for index in full], marks=True)}

    def count_tokens(self, inputs: Sequence[Input]) -> list[int]:
        """How many tokens each input has, special ones included."""
        return [len(row) for row in self._rows(inputs, truncate=False)]

    def _masked(self, texts: Sequence[str], truncate: bool) -> list[fill.Masked]:
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
            raise InputError("texts must be a list of texts")
        if not texts:
            return []
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_tokens} if truncate else {}
        encoded = self.tokenizer(list(texts), return_offsets_mapping=True, split_special_tokens=False, **options)
        mask_id, mask_token = self.tokenizer.mask_token_id, self.tokenizer.mask_token
        masked = []
        for index, text in enumerate(texts):
            ids = encoded["input_ids"][index]
            self._rows.check_length(len(ids), f"texts[{index}]")
            offsets = encoded["offset_mapping"][index]
            masked.append(fill.find_masks(text, ids, offsets, mask_id, mask_token, f"texts[{index}]"))
        return masked

    def run_with(self, packs: Packs) -> None:
        """Let ``packs`` run the rows of all calls: a server's, which mixes the rows of many requests."""
        self._run = packs

    def _read(self, rows: Sequence[Sequence[int]], wanted: Wanted) -> Iterator[Read]:
        """Run the rows and read what is wanted of their states; on a GPU one pack is always on its way."""
        return read(self._run(rows, self._language.number), wanted, ahead=self.device.type != "cpu")

    def _scored(
        self,
        rows: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        score: Callable[[Tensor], Sequence[Tensor]],
    ) -> Iterator[Read]:
        """What ``score`` makes of the language-model head's logits (places, vocabulary) at chosen places of every row.

        A bounded number of rows of logits exist at a time.
        """

        def wanted(states: Tensor, lengths: list[int], members: list[int]) -> list[Tensor]:
            starts = np.cumsum(lengths) - lengths
            chosen = [s + p for s, i in zip(starts.tolist(), members, strict=True) for p in places[i]]
            asked = states.index_select(0, upload(host_tensor(chosen), states.device))
            parts = [score(self.model.lm_logits(chunk)) for chunk in asked.split(MASKS_AT_ONCE)]
            return [torch.cat(one) for one in zip(*parts, strict=True)]

        return self._read(rows, wanted)

    @torch.inference_mode()
    def _own_packs(self, rows: Sequence[Sequence[int]], language: int | None) -> Iterator[Pack]:
        """Run the rows and yield (indices of rows, their lengths, states (tokens, hidden)), longest rows first.

        Rows of one length stand together, which is what packed attention is quick at.
        """
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        budget = TOKENS_A_PACK if self.device.type == "cpu" else TOKENS_A_PACK_GPU
        for start, end in split_budget([len(rows[index]) for index in order], budget):
            for first in range(start, end, ROWS_A_PACK):
                members = order[first : min(first + ROWS_A_PACK, end)]
                yield from in_halves(lambda some: self._packed_states(rows, some, language), members)

    @torch.inference_mode()
    def _packed_states(self, rows: Sequence[Sequence[int]], members: list[int], language: int | None) -> Pack:
        ids, lengths = pack_ids(rows, members)
        tokens = torch.from_numpy(ids)  # on the host, where the model checks them
        languages = None if language is None else torch.full_like(tokens, language)
        return members, lengths, self.states(Batch.packed(tokens, lengths, languages=languages))

    def _vocabulary(self) -> list[str]:
        """The token of every id, made once."""
        if not self._tokens:
            self._tokens = list(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer)))))
        return self._tokens


@cache
def _warn_of_vectors(name: str, kind: str) -> None:
    """Once a model: its encoder was last trained for something else than vectors."""
    logging.getLogger("xlm").warning(
        "%s is a %s and its folder has no settings of vectors (modules.json): what comes out was not trained to compare texts",
        name,
        kind,
    )


def load(
    path_or_name: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
    *,
    batch_invariant: bool = False,
    compile: bool = False,
    lang: str | None = None,
    plain_text: bool = False,
    strict_finite: bool = False,
    offload: Literal["disk"] | None = None,
    allow_pickle: bool = True,
) -> Engine:
    """Load a model with its tokenizer.

    Args:
        path_or_name: a folder, or a name on the hub; an existing folder wins. ``None``: the model in the package.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16`` (GPU only; softmax and norms are summed in float32), or
            ``int8`` (a byte a weight in the encoder's matrices; CPU only). ``None``: int8 for a folder of
            ``xlm quantize``, else float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``None``: a GPU if there is one.
        batch_invariant: what is computed for a text never depends on the others of a call, to the last bit of float32:
            states, vectors, and the answers of every head; without it only within rounding. Slower. Not for translation.
        compile: on a GPU, compile the encoder's layer, in bfloat16 or float16; the first call of a size takes seconds to a
            minute, the later ones are faster.
        lang: the language that all texts are in, for models of XLM: it chooses the rules that split words, and the language
            embeddings of models that have them. XLM-R reads all languages alike.
        plain_text: what looks like a special token in a text (``<mask>``, ``</s>``) is read as its characters, as texts of
            strangers should be; ``fill_mask`` reads masks all the same. A server does so unless told otherwise.
        strict_finite: refuse weights with NaN or infinities, of which else a warning tells, and read all of them for it, also
            the word table that otherwise stays on the disk.
        offload: ``disk`` leaves the weights in their files and reads each layer when it computes, for models larger than
            the memory; on a CPU, and not in int8.
        allow_pickle: whether files that are PyTorch's pickles may be read, by a reader that knows tensors alone; False
            refuses them.

    Raises:
        InputError: a ``lang`` that the model does not know, or to which it is all the same.
        CheckpointError: not a checkpoint, damaged, a pickle that is not allowed, or a model that does not fit its config.
        ConfigError: an unknown ``dtype`` or one that is not for the device, a device that is not there, ``compile``
            without a GPU or in float32, ``batch_invariant`` with ``compile`` or for translation, ``offload`` on a GPU or
            in int8.
    """
    engine = Engine(
        load_parts(path_or_name, dtype, device, batch_invariant, compile, strict_finite, offload, allow_pickle)
    )
    engine.lang = lang
    if plain_text:  # else as the folder's settings say
        engine.plain_text = True
    return engine


def need_finite(values: Floats, what: str) -> Floats:
    """The values.

    Raises:
        CheckpointError: NaN or infinities among them: no text does that to weights that are well.
    """
    # A sum is quick; it may overflow by itself, so elements decide.
    if not np.isfinite(values.sum(dtype=np.float32)) and not np.isfinite(values).all():
        raise CheckpointError(
            f"{what} are not finite: the weights are damaged (strict_finite=True names which), or too large for the type "
            "they are computed in"
        )
    return values
