"""What the documents say is true: the tree is as drawn, and every block marked as runnable runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block is run when the line before it is <!-- run -->.
BLOCK = re.compile(r"^<!-- run -->\n```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(language, code, id=f"{path.name}:{number}")
    for path in DOCUMENTS
    for number, (language, code) in enumerate(BLOCK.findall(path.read_text("utf-8")), 1)
]


def test_the_source_tree_is_drawn_as_it_is() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "tree.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_runnable_blocks_run(language: str, code: str, tmp_path: Path) -> None:
    from xlm.assets import bundled_folder
    from xlm.errors import CheckpointError

    try:
        bundled_folder()
    except CheckpointError as error:
        pytest.skip(str(error))
    commands = {"python": [sys.executable, "-c", code], "bash": ["bash", "-euo", "pipefail", "-c", code]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        commands[language], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_links_between_files_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_has_blocks_that_run() -> None:
    assert len(BLOCK.findall((ROOT / "README.md").read_text("utf-8"))) >= 3
