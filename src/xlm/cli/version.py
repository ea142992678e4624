"""``xlm version``."""

from __future__ import annotations


def version() -> None:
    """Print the version of the library."""
    from xlm import __version__

    print(__version__)
