"""The tree of the source code in docs/architecture.md: every module with the first sentence of its docstring.

python tools/tree.py            print it
python tools/tree.py --write    put it between the markers in docs/architecture.md   (make docs)
python tools/tree.py --check    exit with 1 when the document says something else    (a test does the same)
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: begin (make docs) -->", "<!-- tree: end -->"
WIDTH = 118


def modules() -> list[Path]:
    """The tracked Python files of the package, relative to ``src``; without git, all there are."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "src/xlm/*.py"], capture_output=True, text=True, check=False
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        paths = list((ROOT / "src" / "xlm").rglob("*.py"))
    return sorted(path.relative_to(ROOT / "src") for path in paths if path.is_file())


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop and markup."""
    text = ast.get_docstring(ast.parse((ROOT / "src" / path).read_text("utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split()).replace("``", "")
    return re.split(r"(?<!et al)(?<=[^.])\.(?:\s|$)", first)[0]


def tree() -> str:
    """The tree: folders first carry their package's sentence, then its modules."""
    lines: list[str] = []
    shown: set[Path] = set()
    for path in sorted(modules(), key=lambda p: (p.parent.parts, p.name != "__init__.py", p.name)):
        folder = path.parent
        for depth in range(1, len(folder.parts) + 1):
            part = Path(*folder.parts[:depth])
            if part not in shown:
                shown.add(part)
                lines.append(_line(depth - 1, f"{part.name}/", _package(part)))
        if path.name != "__init__.py":
            lines.append(_line(len(folder.parts), path.name, summary(path)))
    return "\n".join(lines)


def document() -> tuple[str, str]:
    """The document as it is, and as it should be."""
    text = DOCUMENT.read_text("utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return text, f"{before}{BEGIN}\n```text\n{tree()}\n```\n{END}{after}"


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    if not arguments:
        print(tree())
        return 0
    text, wanted = document()
    if arguments == ["--write"]:
        DOCUMENT.write_text(wanted, "utf-8")
        return 0
    if arguments == ["--check"]:
        if text != wanted:
            print("docs/architecture.md does not show the source tree as it is: run  make docs", file=sys.stderr)
        return int(text != wanted)
    print(__doc__, file=sys.stderr)
    return 2


def _package(folder: Path) -> str:
    init = folder / "__init__.py"
    return summary(init) if (ROOT / "src" / init).is_file() else ""


def _line(depth: int, name: str, text: str) -> str:
    line = f"{'  ' * depth}{name:<{30 - 2 * depth}}{text}".rstrip()
    if len(line) <= WIDTH:
        return line
    # Cut where a clause ends, if that leaves most of the sentence; else at a word.
    clause = max(line.rfind(mark, 0, WIDTH) for mark in (": ", "; ", ", ", " ("))
    return line[:clause] if clause > 60 else line[: line.rfind(" ", 0, WIDTH)] + " …"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
