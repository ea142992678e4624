"""HTML of a report: one page that needs no network, in any script; texts run in their own direction."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from xlm.evaluation.plots import NAMES
from xlm.evaluation.results import Case, LanguageResult, Outcome, Score
from xlm.tasks.examples import (
    ChoiceExample,
    PairExample,
    QuestionExample,
    RankedExample,
    TaggedExample,
    TextExample,
)
from xlm.tasks.metrics.chunks import chunks
from xlm.tasks.metrics.ranking import RELEVANT

SHOWN = 100
"""Errors on a language's page, at most: the worst first, among equals those the model was surest of."""
_AROUND = 160
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1d2126;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;margin:.6rem 0}th,td{padding:.2rem .6rem;border-bottom:1px solid #dde1e6;text-align:right}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #889}
td.text{text-align:start;max-width:46rem;unicode-bidi:plaintext;overflow-wrap:anywhere}
.dim{color:#667}.bad{color:#a3201b}.good{color:#1b6e35}mark{background:#ffe58a}u{text-decoration-color:#a3201b;text-decoration-thickness:2px}
.word{display:inline-block;margin:.1rem .15rem;padding:0 .2rem;text-align:center;vertical-align:top}
.word small{display:block;font-size:.72rem;line-height:1.2;color:#667;direction:ltr}
.word.wrong{background:#fde3e1}.confusion td{text-align:center;min-width:3.2rem}.confusion th{text-align:left}
svg,img{max-width:100%;height:auto}code{background:#f2f4f6;padding:0 .25rem}
@media(prefers-color-scheme:dark){body{background:#16191d;color:#e6e8ea}th,td{border-color:#333a42}
.dim,.word small{color:#9aa4ae}
.bad{color:#ff8f87}.good{color:#7fd495}mark{background:#6b5a14;color:#fff}
.word.wrong{background:#5a2522}code{background:#262b31}img{background:#fff}}
"""


def page(title: str, body: str) -> str:
    """A whole document; nothing in it is loaded from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def cell(score: Score | None) -> str:
    """``71.3 [68.9, 73.6]``."""
    if score is None:
        return "<td></td>"
    low, high = score.interval
    return f'<td>{score.main:.1f} <span class="dim">[{low:.1f}, {high:.1f}]</span></td>'


def summary(outcome: Outcome, picture: bytes | None) -> str:
    """The report's first page: what was run, the table, the plot, confusions, links to the errors."""
    spec = outcome.benchmark
    body = [f"<h1>{escape(spec.title)}</h1>", f'<p class="dim">{escape(spec.paper)}</p>']
    facts = {
        "model": ", ".join(outcome.models),
        "setting": f"{outcome.setting}, split {outcome.split}",
        "metric": f"{outcome.metric}, in percent; intervals: 95 %, bootstrap over examples",
    }
    body.append("".join(f"<p><b>{name}</b>: {escape(value)}</p>" for name, value in facts.items()))
    body += [f"<p>Chosen {escape(rule)}: {escape(str(model))}</p>" for rule, model in outcome.chosen.items()]
    body += [f'<p class="bad">{escape(note)}</p>' for note in outcome.notes]
    body.append(_table(outcome))
    if picture is not None:
        encoded = base64.b64encode(picture).decode("ascii")
        body.append(f'<p><img alt="scores by language" src="data:image/svg+xml;base64,{encoded}"></p>')
    sources = [
        f"<li>{escape(one.model)}, average {one.average or ''}: {escape(one.source)}</li>"
        for one in outcome.published()
    ]
    if sources:
        body.append(f"<h2>Where the papers' numbers come from</h2><ul>{''.join(sources)}</ul>")
    body += [confusion(one, spec.labels) for one in outcome.languages]
    return page(f"{spec.name}, {outcome.setting}", "\n".join(part for part in body if part))


def _table(outcome: Outcome) -> str:
    kinds, papers = list(outcome.baselines), [one for one in outcome.published() if one.scores]
    others = list(outcome.average.scores)[1:]
    head = ["language", "examples", outcome.metric, *others, *(NAMES[kind] for kind in kinds)]
    head += ["by its own dev"] * (outcome.per_language is not None) + [one.model for one in papers] + ["errors"]
    rows = []
    for one in outcome.languages:
        cells = [f"<td>{escape(one.language)}</td>", f"<td>{one.items:,}</td>", cell(one.score)]
        cells += [f"<td>{one.score.scores[name]:.1f}</td>" for name in others]
        cells += [cell(one.baselines.get(kind)) for kind in kinds]
        cells += [cell(one.per_language)] * (outcome.per_language is not None)
        cells += [
            f"<td>{paper.scores[one.language]}</td>" if one.language in paper.scores else "<td></td>"
            for paper in papers
        ]
        cells.append(f'<td><a href="errors/{escape(one.language)}.html">errors</a></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    cells = [f"<td><b>{escape(outcome.average_name)}</b></td><td></td>", cell(outcome.average)]
    cells += [f"<td>{outcome.average.scores[name]:.1f}</td>" for name in others]
    cells += [cell(outcome.baselines.get(kind)) for kind in kinds]
    cells += [cell(outcome.per_language)] * (outcome.per_language is not None)
    cells += [f"<td>{paper.average or ''}</td>" for paper in papers] + ["<td></td>"]
    rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def confusion(one: LanguageResult, labels: Sequence[str]) -> str:
    """Rows: what is right; columns: what was said; nothing where predictions are no classes or tags."""
    pairs: dict[tuple[str, str], int] = {}
    for case in one.cases:
        if isinstance(case.example, TextExample) and isinstance(case.gold, str):
            pairs[case.gold, str(case.predicted)] = pairs.get((case.gold, str(case.predicted)), 0) + 1
        elif isinstance(case.example, TaggedExample):
            for right, said in zip(case.gold, case.predicted, strict=True):
                key = right.split("-", 1)[-1], said.split("-", 1)[-1]
                pairs[key] = pairs.get(key, 0) + 1
    if not pairs:
        return ""
    names = list(labels) or sorted({name for pair in pairs for name in pair})
    rows = []
    for right in names:
        total = sum(pairs.get((right, said), 0) for said in names)
        cells = []
        for said in names:
            count = pairs.get((right, said), 0)
            share = count / total if total else 0.0
            hue = "27,110,53" if right == said else "163,32,27"
            cells.append(f'<td style="background:rgba({hue},{0.55 * share:.2f})">{count or "·"}</td>')
        rows.append(f"<tr><th>{escape(right)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f"<details><summary>{escape(one.language)}: what was taken for what (rows: right; columns: said)</summary>"
        f'<table class="confusion"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></details>'
    )


def errors(outcome: Outcome, one: LanguageResult) -> str:
    """A language's page of errors."""
    wrong = [case for case in one.cases if case.correct < 1]
    wrong.sort(key=lambda case: (case.correct, -(case.certainty or 0.0)))
    tagged = outcome.benchmark.task == "tag"
    heads = ["below each word its tag, in red what was said instead"] if tagged else ["text", "right", "said", "sure"]
    body = [
        '<p><a href="../report.html">report</a></p>',
        f"<h1>{escape(outcome.benchmark.name)}, {escape(one.language)}: errors</h1>",
        f"<p>{len(wrong):,} of {len(one.cases):,} are not wholly right; the worst {min(SHOWN, len(wrong)):,} are below.</p>",
        f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>",
    ]
    for case in wrong[:SHOWN]:
        if tagged:
            body.append(f'<tr><td class="text">{_words(case)}</td></tr>')
            continue
        sure = "" if case.certainty is None else f"{100 * case.certainty:.0f}\u00a0%"
        text, right, said = _shown(case, one)
        good = f'<td class="text good" dir="auto">{right}</td>'
        bad = f'<td class="text bad" dir="auto">{said}</td>'
        body.append(f'<tr><td class="text" dir="auto">{text}</td>{good}{bad}<td>{sure}</td></tr>')
    body.append("</tbody></table>")
    return page(f"{outcome.benchmark.name} {one.language}: errors", "\n".join(body))


def _shown(case: Case, one: LanguageResult) -> tuple[str, str, str]:
    """Text, right and said, as HTML."""
    example = case.example
    if isinstance(example, QuestionExample):
        return _passage(example, str(case.predicted)), _answers(case.gold), escape(str(case.predicted)) or "(no answer)"
    if isinstance(example, ChoiceExample):
        asked = f' <span class="dim">({escape(example.question)})</span>' if example.question else ""
        return (
            _block(example.prompt) + asked,
            _block(example.choices[case.gold]),
            _block(example.choices[case.predicted]),
        )
    if isinstance(example, PairExample):
        if example.score is not None:
            return _block(example.text) + _block(example.other), f"{example.score:g}", f"{float(case.predicted):.2f}"
        found = one.cases[case.predicted].example if isinstance(case.predicted, int) else None
        return _block(example.text), _block(example.other), _block(found.other) if found else ""
    if isinstance(example, TextExample):
        text = _block(example.text) + (_block(example.pair) if example.pair else "")
        return text, _labels(case.gold), _labels(case.predicted)
    if isinstance(example, RankedExample):
        right = [text for text, gain in zip(example.documents, example.gains, strict=True) if gain >= RELEVANT]
        first = max(range(len(case.predicted)), key=lambda at: case.predicted[at])
        return _block(example.query), "".join(map(_block, right)), _block(example.documents[first])
    return "".join(_block(text) for text in example), escape(str(case.gold)), escape(str(case.predicted))


def _block(text: str) -> str:
    """A paragraph that runs in its own direction."""
    return f'<div dir="auto">{escape(text)}</div>'


def _labels(given: Any) -> str:
    """A class, a value, or several classes."""
    return escape(", ".join(given) or "(none)" if isinstance(given, list) else str(given))


def _answers(gold: Iterable[str]) -> str:
    return "".join(_block(answer) for answer in dict.fromkeys(gold)) or "(no answer)"


def _passage(example: QuestionExample, said: str) -> str:
    """The question, and the part of the context around the right answer and the given one, both marked."""
    marks: list[tuple[int, int, str]] = []
    if example.answers:
        gold = example.answers[0]
        marks.append((gold.start, gold.start + len(gold.text), "mark"))
    at = example.context.find(said) if said else -1
    if at >= 0 and not any(at < end and at + len(said) > start for start, end, _ in marks):
        marks.append((at, at + len(said), "u"))
    marks.sort()
    low = max(0, marks[0][0] - _AROUND) if marks else 0
    high = marks[-1][1] + _AROUND if marks else 2 * _AROUND
    parts, place = ["…" if low else ""], low
    for start, end, tag in marks:
        parts += [escape(example.context[place:start]), f"<{tag}>{escape(example.context[start:end])}</{tag}>"]
        place = end
    parts += [escape(example.context[place:high]), "…" if high < len(example.context) else ""]
    return f'<div dir="auto"><b>{escape(example.question)}</b></div><div dir="auto">{"".join(parts)}</div>'


def _words(case: Case) -> str:
    """Every word over its right tag, and the given one where it differs; words follow the text's direction."""
    cells = []
    for word, right, said in zip(case.example.words, case.gold, case.predicted, strict=True):
        wrong = right != said
        below = escape(right) + (f'<br><span class="bad">{escape(said)}</span>' if wrong else "")
        tags = f"<small>{below}</small>" if wrong or right != "O" else ""
        cells.append(f'<span class="word{" wrong" if wrong else ""}"><bdi>{escape(word)}</bdi>{tags}</span>')
    return f'<div dir="{_direction(case.example.words)}">{"".join(cells)}</div>'


def _direction(words: Sequence[str]) -> str:
    """Of a sentence in inline blocks, which ``dir="auto"`` does not look into."""
    import unicodedata

    for char in "".join(words):
        kind = unicodedata.bidirectional(char)
        if kind in ("R", "AL"):
            return "rtl"
        if kind == "L":
            return "ltr"
    return "ltr"


def prediction(case: Case) -> dict[str, Any]:
    """A case as a record of ``predictions/<language>.jsonl``."""
    example = case.example
    record: dict[str, Any] = {"id": getattr(example, "id", None), "gold": case.gold, "predicted": case.predicted}
    if isinstance(example, TaggedExample):
        record["words"] = list(example.words)
        record["chunks_right"] = case.correct if _is_chunked(case.gold) else None
    if isinstance(example, RankedExample):
        record |= {"query": example.query, "documents": list(example.documents)}
    if isinstance(example, tuple):
        record["texts"] = list(example)
    record["correct"] = round(case.correct, 6)
    if case.certainty is not None:
        record["certainty"] = round(float(case.certainty), 6)
    return {name: value for name, value in record.items() if value is not None}


def _is_chunked(tags: Sequence[str]) -> bool:
    return any(tag.startswith("B-") for tag in tags) and bool(chunks(tags))
