"""What all contract suites share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files here need not outlive a power cut; that they would is tested where the writer is."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)
