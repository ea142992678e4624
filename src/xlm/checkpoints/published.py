"""Names of tensors in published files <-> names in memory, for every family: the families' tables, put together once."""

from __future__ import annotations

from functools import cache

from xlm.checkpoints.names import Line, NameTable
from xlm.checkpoints.report import modern_name
from xlm.errors import CheckpointError
from xlm.families.registry import FAMILIES, Family

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
