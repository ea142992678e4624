"""A report folder: written whole or not at all, readable without a network.

report.html                 tables, plot, confusions; links to the rest
errors/<language>.html      what went wrong, worst first
plot.svg                    the plot alone
results.json                every number, with the papers'
predictions/<language>.jsonl   one prediction a line, in the order of the files
"""

from __future__ import annotations

import json
from pathlib import Path

from xlm.errors import OutputError
from xlm.evaluation import pages
from xlm.evaluation.plots import check, plot
from xlm.evaluation.results import Outcome
from xlm.folders import atomic_folder, foreign_files, manifest_of


def check_target(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier report, before anything is computed: the new one replaces it. A
    report knows its files by its manifest.

    Raises:
        OutputError: it is a file, or a folder with other content.
        MissingExtraError: matplotlib is not installed.
    """
    check()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"report={str(folder)!r} is a file: a folder is needed")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if "report.html" not in (manifest_of(folder) or {}):
        raise OutputError(f"report={str(folder)!r} holds files that are no report: name an empty or a new folder")
    if others := foreign_files(folder):
        more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
        raise OutputError(
            f"report={str(folder)!r} holds a report and files that are none of its ({', '.join(others[:3])}{more}): "
            "move them away, or name another folder"
        )


def write_report(outcome: Outcome, folder: str | Path) -> Path:
    """Write everything; an earlier report there is replaced. Returns the path of ``report.html``.

    Raises:
        OutputError: the folder holds something else or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    folder = Path(folder)
    check_target(folder)
    picture = plot(outcome)
    try:
        with atomic_folder(folder) as place:
            (place / "errors").mkdir()
            (place / "predictions").mkdir()
            for one in outcome.languages:
                (place / "errors" / f"{one.language}.html").write_text(pages.errors(outcome, one), "utf-8")
                lines = [json.dumps(pages.prediction(case), ensure_ascii=False) + "\n" for case in one.cases]
                (place / "predictions" / f"{one.language}.jsonl").write_text("".join(lines), "utf-8", newline="\n")
            (place / "plot.svg").write_bytes(picture)
            record = json.dumps(outcome.record(), indent=1, ensure_ascii=False, allow_nan=False)
            (place / "results.json").write_text(record + "\n", "utf-8")
            (place / "report.html").write_text(pages.summary(outcome, picture), "utf-8")
    except OSError as error:
        raise OutputError(f"report={str(folder)!r} cannot be written: {error.strerror or error}") from error
    return folder / "report.html"
