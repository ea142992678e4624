"""Which stored tensor fills which parameter of a model, in any framework: names of files in our names, tied copies, shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xlm.checkpoints.published import PREFIX, new_attention, to_ours
from xlm.checkpoints.report import Report, Shape, fit, modern_name
from xlm.families.registry import Family
from xlm.families.spec import EncoderSpec

COPIES = {
    "lm_head.decoder.weight": PREFIX + "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
"""Tied names: never in a file, or there as copies of the tensor they are tied to."""
_HEADS = ("lm_head.", "classifier.", "qa_outputs.", "sequence_summary.", "logits_proj.", PREFIX + "pooler.")


def opened(source: Any) -> tuple[Mapping[str, Shape], Callable[[str], Any]]:
    """The shapes, and the reader, of an open checkpoint or of a mapping of names to tensors."""
    if hasattr(source, "shapes"):
        return source.shapes, source.read
    return {name: tuple(value.shape) for name, value in source.items()}, source.__getitem__


def match(
    shapes: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    family: Family,
    spec: EncoderSpec,
    new: Iterable[str] = (),
    source: str = "",
) -> tuple[dict[str, str], Report]:
    """Decide for every parameter which stored tensor fills it.

    Args:
        shapes: stored name -> shape; names as published, or ours, as a state dict that was saved as it stood in memory has.
        wanted: our name, the encoder's prefix before it also in a model without a head -> shape; of parameters that are one
            in memory the first.
        family, spec: of the model.
        new: prefixes of the names of its head, which a file may lack.
        source: the file's name, for the report.

    Returns:
        ``{our name: stored name}`` for what fits, and the report of the rest.
    """
    theirs: dict[str, str] = {}
    unknown: list[str] = []
    for name in shapes:
        if modern_name(name) is None:
            continue
        ours = to_ours(family, name) or (name if name in COPIES or name in wanted else None)
        if ours is None:
            unknown.append(name)
        else:
            theirs[ours] = name
    headed = any(not name.startswith(PREFIX) for name in wanted)
    for copied, original in COPIES.items():
        # A tied copy that a file holds wins over the original, as in the references: it was loaded last. Where the model
        # does not tie it, it is a tensor of its own.
        if headed and copied in theirs and copied not in wanted and original in wanted:
            theirs[original] = theirs.pop(copied)
    found = {ours: tuple(shapes[name]) for ours, name in theirs.items()}
    pairs, report = fit(found, wanted, prefix=PREFIX, new=(*new, *new_attention(spec)), optional=_HEADS, source=source)
    report.unexpected = [theirs.get(name, name) for name in report.unexpected] + unknown
    return {ours: theirs[name] for ours, name in pairs.items()}, report
