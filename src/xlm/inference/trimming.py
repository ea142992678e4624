"""The proof of a cut: for texts that need only kept pieces the model before and the model after say the same, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from xlm.checkpoints.trim import TrimReport, same_weights
from xlm.errors import CheckpointError
from xlm.inference.engine import load


@dataclass(frozen=True)
class Proof:
    """``texts`` of those offered need only kept pieces: on them pieces and hidden states were compared.

    ``weights_equal``: every tensor, of those with a row for each id the kept rows, in every bit. ``pieces_equal``: of all
    texts compared. ``states_equal``: all bits of all hidden states. ``logits_equal``: all bits of the kept tokens' logits
    (None without a head over the vocabulary); ``logits_difference``: the largest distance between them. A kernel may add up
    the same products in another order for a table of another size, so logits can differ in their last bits.
    """

    offered: int
    texts: int
    tokens: int
    weights_equal: bool
    pieces_equal: bool
    states_equal: bool
    logits_equal: bool | None
    logits_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def prove(report: TrimReport, texts: Mapping[str, Sequence[str]], dtype: str = "float32") -> Proof:
    """Run both models, one after the other, on the texts (by language) that need only kept pieces.

    Raises:
        CheckpointError: none of the texts does, so nothing can be compared.
    """
    new = {old: index for index, old in enumerate(report.ids)}
    before = load(report.source, dtype)
    unknown = before.tokenizer.unk_token_id
    rows: list[list[int]] = []
    chosen: list[tuple[str, str]] = []
    offered = 0
    for language, lines in texts.items():
        for line in lines:
            offered += 1
            ids = _encode(before, line, language)
            if (
                ids
                and unknown not in ids
                and all(index in new for index in ids)
                and len(ids) <= before.model.spec.max_tokens
            ):
                rows.append(ids)
                chosen.append((language, line))
    if not rows:
        raise CheckpointError(f"{report.out}: none of the {offered} texts needs kept pieces alone: nothing to compare")
    kept = torch.tensor(report.ids)
    states, logits = _outputs(before, rows, kept)
    del before
    after = load(report.out, dtype)
    pieces_equal = all(
        _encode(after, line, language) == [new[index] for index in ids]
        for (language, line), ids in zip(chosen, rows, strict=True)
    )
    new_states, new_logits = _outputs(after, [[new[index] for index in row] for row in rows], None)
    distances = [float(np.abs(a - b).max()) for a, b in zip(logits, new_logits, strict=True)]
    return Proof(
        offered=offered,
        texts=len(rows),
        tokens=sum(map(len, rows)),
        weights_equal=same_weights(report),
        pieces_equal=pieces_equal,
        states_equal=_same(states, new_states),
        logits_equal=_same(logits, new_logits) if logits else None,
        logits_difference=max(distances, default=None),
    )


def _encode(engine: Any, line: str, language: str) -> list[int]:
    """Ids of a text, as many as the model takes."""
    tokenizer = engine.tokenizer
    options: dict[str, Any] = {"truncation": True, "max_length": engine.model.spec.max_tokens}
    if "lang" in tokenizer.TEXT_OPTIONS and (not tokenizer.lang2id or language in tokenizer.lang2id):
        options["lang"] = language
    return list(tokenizer(line, **options)["input_ids"])


def _same(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


def _outputs(
    engine: Any, rows: list[list[int]], kept: torch.Tensor | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Hidden states of every row, and the logits of the kept tokens where the model has such a head."""
    states = engine.encode(rows)
    if not hasattr(engine.model, "lm_logits"):
        return states, []
    found = []
    with torch.inference_mode():
        for row in states:
            weight = engine.model.get_input_embeddings().weight
            logits = engine.model.lm_logits(torch.from_numpy(row).to(weight.device, weight.dtype)).float().cpu()
            found.append((logits if kept is None else logits[:, kept]).numpy())
    return states, found
