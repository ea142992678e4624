"""What a build kept and dropped, by language: counts, a page with plots, a picture."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

from xlm import atomic
from xlm.data.corpora.ledger import manifests

_SHOWN = 5


def summarise(work: Path, sources: int) -> dict[str, Any]:
    """Counts of all files and shards together.

    ``documents`` is ``{kind: {language: {"read", "kept", reason: documents, ...}}}``; ``examples`` is
    ``{reason: [[language, beginning of the text], ...]}``.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    examples: dict[str, list[list[str]]] = {}
    found = manifests(work, sources)
    shards = [json.loads(path.read_text("utf-8")) for path in sorted((work / "shards").glob("*.json"))]
    for manifest in found:
        for kind, language, of in manifest["counts"]:
            counts.setdefault((kind, language), Counter()).update(of)
    for shard in shards:
        here = counts[shard["kind"], shard["language"]]
        here.update(shard["dropped"])
        here["kept"] -= sum(shard["dropped"].values())
    for entry in [*found, *shards]:
        for language, reason, texts in entry["examples"]:
            shown = examples.setdefault(reason, [])
            shown += [[language, text] for text in texts if text][: _SHOWN - len(shown)]
    documents: dict[str, dict[str, dict[str, int]]] = {}
    for (kind, language), of in sorted(counts.items()):
        documents.setdefault(kind, {})[language] = dict(of)
    rows, bad, replaced = (sum(manifest[name] for manifest in found) for name in ("rows", "bad", "replaced"))
    return {"rows": rows, "bad_rows": bad, "replaced": replaced, "documents": documents, "examples": examples}


def reasons_of(about: dict[str, Any]) -> list[str]:
    """Why documents were dropped, the commonest first."""
    total: Counter[str] = Counter()
    for languages in about["documents"].values():
        for counts in languages.values():
            total.update({name: count for name, count in counts.items() if name not in ("read", "kept") and count})
    return [name for name, _ in total.most_common()]


def rows_of(about: dict[str, Any]) -> list[dict[str, Any]]:
    """One record a kind and language: documents, tokens and unknown tokens of what is trained on and held out."""
    found: list[dict[str, Any]] = []
    parts = {"text": ("text", "valid"), "pairs": ("pairs", "held-out")}
    for kind, languages in about["documents"].items():
        for language, counts in languages.items():
            trained, held = (about["parts"].get(part, {}).get(language, {}) for part in parts[kind])
            tokens = trained.get("tokens", 0)
            found.append(
                {
                    "kind": kind,
                    "language": language,
                    "documents": trained.get("documents", 0),
                    "held_out": held.get("documents", 0),
                    "tokens": tokens,
                    "characters": trained.get("characters", 0),
                    "unknown_rate": trained.get("unknown", 0) / tokens if tokens else 0.0,
                    "dropped": {name: n for name, n in counts.items() if name not in ("read", "kept") and n},
                }
            )
    return sorted(found, key=lambda row: (row["kind"], -row["tokens"]))


def write_report(out: Path, about: dict[str, Any]) -> None:
    """``report.json``, ``languages.png`` (where matplotlib is there) and ``report.html``, which needs no other file."""
    rows = rows_of(about)
    totals = {name: about[name] for name in ("rows", "bad_rows", "replaced")}
    picture = _picture(rows, reasons_of(about))
    if picture is not None:
        atomic.write_bytes(out / "languages.png", picture)
    atomic.write_json(out / "report.json", {**totals, "languages": rows, "examples": about["examples"]})
    atomic.write_text(out / "report.html", _page(about, rows, totals, picture))


def _picture(rows: list[dict[str, Any]], reasons: list[str]) -> bytes | None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    import io

    names = [row["language"] if row["kind"] == "text" else f"{row['language']} (pairs)" for row in rows]
    figure = Figure(figsize=(10, max(2.5, 0.2 * len(rows) + 1.6)), layout="constrained")
    tokens, shares, unknown = figure.subplots(1, 3, sharey=True, width_ratios=[4, 4, 2])
    place = list(range(len(rows)))
    tokens.barh(place, [max(row["tokens"], 1) for row in rows], color="#4477aa")
    sizes = [row["tokens"] for row in rows if row["tokens"]]
    if sizes and max(sizes) > 50 * min(sizes):
        tokens.set_xscale("log")
        tokens.set_xlim(left=min(sizes) / 3)
    tokens.set_xlabel("tokens")
    tokens.set_yticks(place, names, fontsize=7)
    tokens.invert_yaxis()
    left = [0.0] * len(rows)
    colours = [
        "#cccccc",
        "#ee6677",
        "#ccbb44",
        "#228833",
        "#66ccee",
        "#aa3377",
        "#ee8866",
        "#777777",
        "#332288",
        "#000000",
    ]
    seen = [row["documents"] + row["held_out"] + sum(row["dropped"].values()) for row in rows]
    parts = [("kept", [row["documents"] + row["held_out"] for row in rows])]
    parts += [(reason, [row["dropped"].get(reason, 0) for row in rows]) for reason in reasons]
    for number, (label, counts) in enumerate(parts):
        width = [100 * count / max(total, 1) for count, total in zip(counts, seen, strict=True)]
        shares.barh(place, width, left=left, color=colours[number % len(colours)], label=label)
        left = [start + more for start, more in zip(left, width, strict=True)]
    shares.set_xlabel("documents, %")
    shares.legend(fontsize=6, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    unknown.barh(place, [100 * row["unknown_rate"] for row in rows], color="#aa3377")
    unknown.set_xlabel("unknown tokens, %")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _page(about: dict[str, Any], rows: list[dict[str, Any]], totals: dict[str, int], picture: bytes | None) -> str:
    reasons = reasons_of(about)
    head = ["kind", "language", "documents", "held out", "tokens", "tokens / character", "unknown", *reasons]
    body = []
    for row in rows:
        cells = [row["kind"], row["language"], f"{row['documents']:,}", f"{row['held_out']:,}", f"{row['tokens']:,}"]
        cells += [f"{row['tokens'] / max(row['characters'], 1):.3f}", f"{row['unknown_rate']:.3%}"]
        cells += [f"{row['dropped'].get(reason, 0):,}" for reason in reasons]
        body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    image = ""
    if picture is not None:
        image = f'<img alt="by language" src="data:image/png;base64,{base64.b64encode(picture).decode("ascii")}">'
    shown = "".join(
        f"<h3>{html.escape(reason)}</h3><ul>"
        + "".join(f"<li><b>{html.escape(name)}</b> <bdi>{html.escape(text)}</bdi></li>" for name, text in texts)
        + "</ul>"
        for reason, texts in about["examples"].items()
        if texts
    )
    options = html.escape(json.dumps(about["options"], indent=1, ensure_ascii=False))
    style = (
        "body{font:14px system-ui,sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}"
        "td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #ddd}"
        "td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}img{max-width:100%}"
    )
    return (
        f'<!doctype html><meta charset="utf-8"><title>Corpus</title><style>{style}</style><h1>Corpus</h1>'
        f"<p>{totals['rows']:,} rows read from {len(about['inputs'])} files; {totals['bad_rows']:,} in quarantine.jsonl, "
        f"{totals['replaced']:,} with bytes replaced. Vocabulary of {about['vocabulary']:,} ids.</p>{image}"
        f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{''.join(body)}</table>"
        f"<h2>What was dropped</h2>{shown or '<p>Nothing.</p>'}<h2>Options</h2><pre>{options}</pre>\n"
    )
