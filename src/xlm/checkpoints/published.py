"""Names of tensors in published files <-> names in memory, for every family: the families' tables, put together once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from xlm.checkpoints.names import Line, NameTable
from xlm.checkpoints.report import modern_name
from xlm.errors import CheckpointError
from xlm.families.registry import FAMILIES, Family, family_of
from xlm.families.spec import EncoderSpec

PREFIX = "roberta."
"""What every model with a head puts before the names of its encoder, in memory and in every family."""


@cache
def _table(model_type: str) -> NameTable:
    family = FAMILIES[model_type]
    encoder = (
        Line(PREFIX + line.ours, f"{family.theirs_prefix}.{line.theirs}", line.transposed, line.old)
        for line in NameTable.parse(family.encoder_names)
    )
    return NameTable([*encoder, *NameTable.parse(family.head_names)])


def table_of(family: Family) -> NameTable:
    """The family's table for a model with a head: our full names and the published ones."""
    return _table(family.model_type)


def to_ours(family: Family, name: str) -> str | None:
    """Our full name of a published one, which may lack the encoder's prefix; None for a buffer or an unknown name."""
    modern = modern_name(name)
    if modern is None:
        return None
    table = table_of(family)
    return table.to_ours(modern) or table.to_ours(f"{family.theirs_prefix}.{modern}")


def to_theirs(family: Family, name: str, base: bool = False) -> str:
    """The published name of ours; ``base``: of a model without a head, whose names have no prefix on either side.

    Raises:
        CheckpointError: the family has no such tensor.
    """
    found = table_of(family).to_theirs(PREFIX + name if base else name)
    if found is None:
        raise CheckpointError(f"{name}: the family {family.model_type} has no published name for it")
    return found.removeprefix(family.theirs_prefix + ".") if base else found


@dataclass(frozen=True)
class Side:
    """One model's tensors in a checkpoint: all of them, or those of one side of an encoder-decoder.

    Attributes:
        prefix: what their names begin with, in files and in memory: nothing, ``encoder.`` or ``decoder.``.
        config: the model's own.
        architecture: its class.
        base: whether it is saved without a head, and so without the encoder's own prefix.
    """

    prefix: str
    config: Any
    architecture: str | None
    base: bool

    @property
    def family(self) -> Family:
        """The record of its family."""
        return family_of(self.config)

    def to_ours(self, name: str) -> str | None:
        """Our full name, behind the side's prefix, of a name in a file; None where it is none of this side's."""
        found = to_ours(self.family, name.removeprefix(self.prefix)) if name.startswith(self.prefix) else None
        return None if found is None else self.prefix + found

    def to_theirs(self, name: str) -> str | None:
        """The inverse; None for another side's tensor, or the head of a model that is saved without one."""
        own = name.removeprefix(self.prefix)
        if not name.startswith(self.prefix) or (self.base and not own.startswith(PREFIX)):
            return None
        theirs = to_theirs(self.family, own)
        return self.prefix + (theirs.removeprefix(self.family.theirs_prefix + ".") if self.base else theirs)


def sides_of(config: Any) -> list[Side]:
    """The models that a checkpoint with this config holds: one, or an encoder and a decoder."""
    if not config.is_composition:
        family = family_of(config)
        architecture = next(iter(config.architectures or ()), None)
        base = str(architecture or "Model").removeprefix(family.class_prefix) == "Model"
        return [Side("", config, architecture, base)]
    reads, writes = family_of(config.encoder), family_of(config.decoder)
    return [
        Side("encoder.", config.encoder, f"{reads.class_prefix}Model", True),
        Side("decoder.", config.decoder, writes.class_prefix + writes.language_model, False),
    ]


def new_attention(spec: EncoderSpec) -> list[str]:
    """Prefixes of cross-attention, which the checkpoint of an encoder or language model lacks: it starts fresh."""
    layers = range(spec.num_layers if spec.cross_attention else 0)
    return [f"{PREFIX}encoder.layer.{number}.crossattention." for number in layers]
