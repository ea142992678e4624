"""Make the notebooks from the examples, one a task, and run them.

    python examples/notebooks/make.py            # writes *.ipynb beside this file, with their outputs
    python examples/notebooks/make.py --check    # says which of them are not what their example would give

A notebook is its example without the command line: the docstring as text, the rows that it learns from, the fine-tuning
call with the options that the example runs with, and the questions that it asks. Needs ``nbclient`` and ``ipykernel``.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# notebook -> (example, guide, title, epochs)
NOTEBOOKS = {
    "sequence_classification": ("classify", "classify", "Sequence classification", 20),
    "token_classification": ("tag", "tag", "Token classification", 4),
    "question_answering": ("answer", "answer", "Question answering", 20),
    "multiple_choice": ("choose", "choose", "Multiple choice", 6),
    "retrieval": ("retrieve", "retrieve", "Embeddings and reranking", 16),
    "masked_language_modeling": ("language_model", "language-models", "Masked language modelling", 10),
    "causal_language_modeling": ("generate", "language-models", "Causal language modelling", 12),
}
_OPTIONS = 'options(__doc__ or "", ROWS, arguments)'
_IMPORTS = ("common", "__future__")
_WRITE = """import json
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
data = folder / "rows.jsonl"
data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\\n" for row in ROWS), "utf-8")
given = {{"model": None, "train": str(data), "eval": str(data), "output": folder / "run"}}
given |= {{"epochs": {epochs}, "batch": 4, "quiet": True}}
print(len(ROWS), "rows, the first:", json.dumps(ROWS[0], ensure_ascii=False))"""


def notebook(name: str) -> dict[str, Any]:
    """The notebook as it is before it runs."""
    example, guide, title, epochs = NOTEBOOKS[name]
    source = (HERE.parent / f"{example}.py").read_text("utf-8")
    tree = ast.parse(source)
    about = (ast.get_docstring(tree) or "").splitlines()[0]
    lines = source.splitlines()

    def text(nodes: list[ast.stmt]) -> str:
        """The source of neighbouring statements, with the comments between them."""
        found = lines[nodes[0].lineno - 1 : nodes[-1].end_lineno]
        return textwrap.dedent("\n".join(found))

    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    before = [node for node in tree.body[: tree.body.index(main)] if not _is_docstring(node)]
    before = [node for node in before if not (isinstance(node, ast.ImportFrom) and node.module in _IMPORTS)]
    body = [node for node in main.body if not _is_docstring(node) and not isinstance(node, ast.Return)]
    trains = next(at for at in reversed(range(len(body))) if "finetune(" in text([body[at]]))
    steps = [text(body[: trains + 1]), text(body[trains + 1 :])]
    calls = [step.replace(f"**{_OPTIONS}", "**given").replace(f"given = {_OPTIONS}\n", "") for step in steps]
    calls[0] += "\noutcome.scores"
    cells = [
        _markdown(
            f"# {title}\n\n{about}\n\n[Guide](../../docs/tasks/{guide}.md) · the same as a script: "
            f"[`examples/{example}.py`](../{example}.py) · needs `pip install 'xlm[torch,train]'`"
        ),
        _markdown(
            "## The rows to learn from\n\nA few rows of its own, so that it runs anywhere; give your files instead."
        ),
        _code(text(before)),
        _code(_WRITE.format(epochs=epochs)),
        _markdown("## Fine-tune\n\nFrom the small model in the package; `model=` takes a folder or a name on the hub."),
        _code(calls[0]),
        _markdown("## Ask"),
        _code(calls[1]),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"{name[:12]}-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def sources(made: dict[str, Any]) -> list[tuple[str, str]]:
    """``(kind, source)`` of every cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]


def executed(made: dict[str, Any]) -> dict[str, Any]:
    """The notebook with its outputs. Raises ``nbclient.exceptions.CellExecutionError`` where a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.reads(json.dumps(made), as_version=4)
    NotebookClient(node, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in node.cells:
        cell.metadata.pop("execution", None)  # times, which differ every time
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return json.loads(nbformat.writes(node))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    lines = text.strip("\n").splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}


def main(arguments: list[str] | None = None) -> int:
    """Write or check them; the number of notebooks that are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(NOTEBOOKS))
    given = parser.parse_args(arguments)
    wrong = 0
    for name in given.only or NOTEBOOKS:
        path, made = HERE / f"{name}.ipynb", notebook(name)
        if given.check:
            kept = json.loads(path.read_text("utf-8")) if path.is_file() else None
            if kept is None or sources(kept) != sources(made):
                wrong += 1
                print(f"{path} is not what its example gives: run {Path(__file__).name}")
        else:
            path.write_text(json.dumps(executed(made), ensure_ascii=False, indent=1) + "\n", "utf-8")
            print(path)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
