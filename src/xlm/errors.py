"""The typed errors of the library: each message names the argument, its value and the limit it broke.

Every class derives from :class:`XLMError` and from the built-in error that Python programs already catch for that kind of
fault, so ``except ValueError`` around a call keeps working.
"""

from __future__ import annotations


class XLMError(Exception):
    """Base of every error that the library raises on purpose."""


class InputError(XLMError, ValueError):
    """A value passed to a call (ids, masks, texts, labels, options) is of the wrong type, shape or range."""


class ArgumentError(InputError, TypeError):
    """A keyword argument that the call does not know or does not offer; the message names it."""


class ConfigError(XLMError, ValueError):
    """A field of a config or recipe is unknown, of the wrong type or impossible together with another."""


class CheckpointError(XLMError, OSError, ValueError):
    """A checkpoint, its index, its config or its vocabulary is missing, damaged, unsafe or does not fit the model."""


class DataError(XLMError, ValueError):
    """A line or record of a data file cannot be used; the message begins with ``file:line``."""


class OutputError(XLMError, OSError):
    """Something could not be written; what was there before is intact."""


class QualityError(XLMError, ValueError):
    """A model would become worse than asked for; nothing was written."""


class MissingExtraError(XLMError, ImportError):
    """An optional dependency is absent; the message names the extra that installs it."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: install it with  pip install 'xlm[{extra}]'")
        self.feature, self.package, self.extra = feature, package, extra
