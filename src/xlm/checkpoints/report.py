"""Which tensors of a checkpoint go where in a model, and one report of everything that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xlm.errors import CheckpointError

Shape = tuple[int, ...]
_SHOWN = 10

# Buffers that old files carry and no model needs.
_BUFFERS = ("position_ids", "token_type_ids")
# Spellings of a layer norm's weight and bias from before PyTorch had one.
_SPELLINGS = {"gamma": "weight", "beta": "bias"}


@dataclass
class Report:
    """Everything that did not fit when a checkpoint met a model.

    Attributes:
        missing: names that the model has and the file lacks, and that were not newly initialised.
        unexpected: names in the file that the model has no place for.
        mismatched: (name, shape in the file, shape in the model).
        initialised: names absent from the file that a new head fills with fresh values.
        conflicts: tied names stored with different values; which copy was used is said in the text.
        nonfinite: names whose values contain NaN or infinity.
        source: what was read, for the title.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    nonfinite: list[str] = field(default_factory=list)
    source: str = ""

    def __bool__(self) -> bool:
        """True when there is anything to report."""
        return any(entries for _, entries in self._sections())

    def _sections(self) -> list[tuple[str, list[str]]]:
        width = max((len(name) for name, *_ in self.mismatched), default=0)
        shapes = [f"{name:<{width}}  file {found}  model {wanted}" for name, found, wanted in self.mismatched]
        return [
            ("missing from the file", sorted(self.missing)),
            ("unexpected in the file", sorted(self.unexpected)),
            ("of another shape", sorted(shapes)),
            ("newly initialised", sorted(self.initialised)),
            ("tied but different", sorted(self.conflicts)),
            ("with NaN or infinite values", sorted(self.nonfinite)),
        ]

    def __str__(self) -> str:
        title = f"checkpoint {self.source}: " if self.source else "checkpoint: "
        if not self:
            return title + "every tensor fits"
        lines = [title + ", ".join(f"{len(entries)} {what}" for what, entries in self._sections() if entries)]
        for what, entries in self._sections():
            if entries:
                lines.append(f"  {what} ({len(entries)}):")
                lines += [f"    {entry}" for entry in entries[:_SHOWN]]
                if len(entries) > _SHOWN:
                    lines.append(f"    and {len(entries) - _SHOWN} more")
        return "\n".join(lines)

    def extend(self, other: Report, prefix: str = "") -> None:
        """Take over what another report says, its names behind a prefix."""
        for name in ("missing", "unexpected", "initialised", "conflicts", "nonfinite"):
            getattr(self, name).extend(prefix + entry for entry in getattr(other, name))
        self.mismatched += [(prefix + name, found, wanted) for name, found, wanted in other.mismatched]

    def raise_for(self, *, strict: bool = False, ignore_mismatched: bool = False, ignore_missing: bool = False) -> None:
        """Raise CheckpointError when the model cannot be filled as asked; the message is the whole report.

        Tensors of another shape always count unless ``ignore_mismatched``, missing ones unless ``ignore_missing``;
        unexpected ones and NaN or infinite values only when ``strict``.
        """
        wrong = (
            (self.mismatched and not ignore_mismatched)
            or (self.missing and not ignore_missing)
            or (strict and (self.unexpected or self.nonfinite))
        )
        if wrong:
            raise CheckpointError(str(self))

    def to_dict(self) -> dict[str, list]:
        """The report as plain lists, for ``--json``."""
        return {
            "missing": sorted(self.missing),
            "unexpected": sorted(self.unexpected),
            "mismatched": [[name, list(found), list(wanted)] for name, found, wanted in sorted(self.mismatched)],
            "initialised": sorted(self.initialised),
            "conflicts": sorted(self.conflicts),
            "nonfinite": sorted(self.nonfinite),
        }


def modern_name(name: str) -> str | None:
    """The name with historic spellings replaced (gamma, beta); None for a buffer that is not a weight."""
    head, dot, last = name.rpartition(".")
    if last in _BUFFERS:
        return None
    return head + dot + _SPELLINGS.get(last, last)


def fit(
    found: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    *,
    prefix: str = "roberta.",
    new: Iterable[str] = (),
    optional: Iterable[str] = (),
    source: str = "",
) -> tuple[dict[str, str], Report]:
    """Decide for every tensor of a model which tensor of a file fills it.

    Args:
        found: the file's tensors in our names, with their shapes.
        wanted: the model's tensors in our names, with their shapes.
        prefix: what a model with a head puts before the names of its encoder; it is added or cut off as needed, so that
            an encoder's file fills a model with a head and the other way round.
        new: prefixes of names (``"classifier."``) that a fresh head may lack in the file: reported as initialised.
        optional: prefixes of names that the file may hold though the model does not (``"lm_head."`` for a classifier).
        source: the file's name, for the report.

    Returns:
        ``{wanted name: found name}`` for what fits, and the report of the rest.
    """
    new, optional = tuple(new), tuple(optional)
    report = Report(source=source)
    pairs: dict[str, str] = {}
    used: set[str] = set()
    modern: dict[str, str] = {}
    for name in found:
        renamed = modern_name(name)
        if renamed is None:
            used.add(name)
        else:
            modern.setdefault(renamed, name)
    for name, shape in wanted.items():
        other = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
        key = name if name in modern else other
        if key not in modern:
            (report.initialised if new and name.startswith(new) else report.missing).append(name)
            continue
        used.add(modern[key])
        if tuple(found[modern[key]]) != tuple(shape):
            report.mismatched.append((name, tuple(found[modern[key]]), tuple(shape)))
        else:
            pairs[name] = modern[key]
    report.unexpected = [name for name in found if name not in used and not (optional and name.startswith(optional))]
    return pairs, report
