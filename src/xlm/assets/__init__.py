"""What comes with the package: the small model that works without a download, and the sentences of the demo."""

from __future__ import annotations

from pathlib import Path

from xlm.errors import CheckpointError

BUNDLED = "xlmr-mini"
BUNDLED_NAMES = ("bundled", BUNDLED)
"""What it may be called wherever a model is named."""
DEMO_TEXTS = Path(__file__).parent / "demo.toml"


def bundled_folder() -> Path:
    """The folder of the bundled model.

    Raises:
        CheckpointError: it was not installed with the package.
    """
    folder = Path(__file__).parent / BUNDLED
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: the bundled model is not there: install the package again, or name a model")
    return folder
