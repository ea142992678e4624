"""Our scores beside the official scripts' on the same predictions (made by make_fixtures.py), and beside libraries."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlm.tasks import metrics
from xlm.tasks.metrics import answers, chunks, classes, mining


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    return json.loads(gzip.decompress((Path(__file__).parent / "official.json.gz").read_bytes()))


def columns(rows: list[dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    return [row["gold"] for row in rows], [row["predicted"] for row in rows]


@pytest.mark.parametrize("language", ["en", "ar", "de", "es", "hi", "ru", "tr", "vi", "zh"])
def test_squad(official, language):
    case = official["squad"][language]
    assert answers.squad(*columns(case["rows"])).scores == pytest.approx(case["official"], abs=1e-9)


@pytest.mark.parametrize("language", answers.MLQA_LANGUAGES)
def test_mlqa(official, language):
    case = official["mlqa"][language]
    gold, predicted = columns(case["rows"])
    assert answers.mlqa(gold, predicted, language).scores == pytest.approx(case["official"], abs=1e-9)
    assert metrics.answer_scores(gold, predicted, language) == pytest.approx(case["official"], abs=1e-9)


@pytest.mark.parametrize("language", ["fa", "en"])
def test_squad_v2(official, language):
    case = official["squad_v2"][language]
    gold, predicted = columns(case["rows"])
    plain = answers.squad_v2(gold, predicted)
    assert plain.scores | plain.details == pytest.approx(without_totals(case["official"]), abs=1e-9)
    doubt = answers.squad_v2(gold, predicted, [row["no_answer"] for row in case["rows"]], 0.4)
    assert doubt.scores | doubt.details == pytest.approx(without_totals(case["threshold_0.4"]), abs=1e-9)
    expected = {"exact_match": case["official"]["exact"], "f1": case["official"]["f1"]}
    assert metrics.answer_scores(gold, predicted, None) == pytest.approx(expected, abs=1e-9)


def without_totals(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if name != "total"}


@pytest.mark.parametrize("language", ["en", "ar", "zh"])
def test_conlleval(official, language):
    case = official["conlleval"][language]
    found = chunks.chunk_f1(case["gold"], case["predicted"])
    counts, whole, *kinds = case["official"].strip().split("\n")
    number = r":\s+([\d.]+)"
    for name, key in (("accuracy", "accuracy"), ("precision", "precision"), ("recall", "recall"), ("FB1", "f1")):
        assert f"{found.scores[key]:.2f}" == re.search(name + number, whole)[1]
    assert [line.split(":")[0].strip() for line in kinds] == list(found.details["by_type"])
    for line in kinds:
        scores = found.details["by_type"][line.split(":")[0].strip()]
        for name, key in (("precision", "precision"), ("recall", "recall"), ("FB1", "f1")):
            assert f"{scores[key]:.2f}" == re.search(name + number, line)[1]
    phrases = int(re.search(r"with (\d+) phrases", counts)[1])
    assert sum(scores["gold"] for scores in found.details["by_type"].values()) == phrases
    fractions = metrics.tagging_scores(case["gold"], case["predicted"])
    assert 100 * fractions["f1"] == pytest.approx(found.scores["f1"])


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_mining(official, margin):
    case = official["mining"]
    x, y = (np.array(case[side], np.float32) for side in ("source", "target"))
    # The official script drops pairs of a score of 0 or less.
    scored = {(f"x-{i}", f"y-{j}"): score for i, j, score in mining.mine(x, y, margin=margin) if score > 0}
    gold = {(a, b) for a, b in case["gold"]}
    threshold = mining.best_threshold(scored, gold)
    mined = {pair for pair, score in scored.items() if score >= threshold}
    said = case["official"][margin]
    assert threshold == pytest.approx(said["best-threshold"], abs=1e-5)
    assert len(mined) == said["mined"]
    expected = {"f1": said["F1"], "precision": said["precision"], "recall": said["recall"]}
    assert mining.mining_f1(gold, mined).scores == pytest.approx(expected, abs=1e-9)


def test_chunks_like_seqeval_whatever_the_tags():
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    rng = random.Random(3)
    for kinds in (["O", "B-X", "I-X", "B-Y", "I-Y"], ["O", "B-X", "I-X", "E-X", "S-X", "I-Y", "E-Y", "S-Y", "B-a-b"]):
        for _ in range(300):
            tags = rng.choices(kinds, k=rng.randint(1, 12))
            theirs = [(kind, start, end + 1) for kind, start, end in seqeval.get_entities(tags)]
            assert [(c.kind, c.start, c.end) for c in chunks.chunks(tags)] == theirs, tags


def test_parts_of_speech_as_xtreme_scores_them():
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = random.Random(4)
    tags = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X _".split()
    gold = [rng.choices(tags, k=rng.randint(1, 20)) for _ in range(200)]
    guess = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in row] for row in gold]
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = 100 * seqeval.f1_score(gold, guess)
    found = chunks.tag_accuracy(gold, guess).scores
    assert found["xtreme_f1"] == pytest.approx(theirs)
    assert found["accuracy"] == pytest.approx(100 * seqeval.accuracy_score(gold, guess))
    assert set(metrics.tagging_scores(gold, guess)) == {"accuracy"}


def test_classes_like_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = random.Random(5)
    for labels in (["yes", "no"], ["a", "b", "c", "d"]):
        gold = rng.choices(labels, k=300)
        guess = [label if rng.random() < 0.6 else rng.choice(labels) for label in gold]
        found = metrics.classification_scores(gold, guess)
        assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, guess))
        assert found["macro_f1"] == pytest.approx(sklearn.f1_score(gold, guess, average="macro"))
        assert found["mcc"] == pytest.approx(sklearn.matthews_corrcoef(gold, guess))
    assert metrics.classification_scores(["a", "b"], ["a", "a"])["mcc"] == 0
    found = classes.binary_f1(gold := rng.choices([0, 1], k=99), guess := rng.choices([0, 1], k=99)).scores
    assert found["f1"] == pytest.approx(100 * sklearn.f1_score(gold, guess))
    assert found["accuracy_and_f1"] == pytest.approx((found["f1"] + found["accuracy"]) / 2)


def test_label_sets_like_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = random.Random(6)
    gold = [tuple(rng.sample("abcd", rng.randint(0, 3))) for _ in range(100)]
    guess = [tuple(rng.sample("abcd", rng.randint(0, 3))) for _ in range(100)]
    binary = preprocessing.MultiLabelBinarizer(classes=list("abcd"))
    a, b = binary.fit_transform(gold), binary.transform(guess)
    expected = {
        "micro_f1": sklearn.f1_score(a, b, average="micro"),
        "macro_f1": sklearn.f1_score(a, b, average="macro"),
        "exact": sklearn.accuracy_score(a, b),
    }
    assert metrics.multilabel_scores(gold, guess) == pytest.approx(expected)


def test_correlations_like_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(7)
    gold = rng.integers(0, 6, 200).astype(float)  # with equals
    guess = gold + rng.normal(size=200).round(1)
    found = metrics.regression_scores(list(gold), list(guess))
    assert found["pearson"] == pytest.approx(stats.pearsonr(gold, guess)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(gold, guess)[0])
    assert found["mse"] == pytest.approx(((gold - guess) ** 2).mean())
    weights = np.bincount(rng.integers(0, 200, 200), minlength=200)
    again = classes.correlations(list(gold), list(guess)).resample(weights[None].astype(float))
    repeated = np.repeat(np.arange(200), weights)
    assert again["spearman"][0] == pytest.approx(100 * stats.spearmanr(gold[repeated], guess[repeated])[0])
    assert metrics.regression_scores([1.0, 2.0], [3.0, 3.0])["spearman"] == 0


def test_ranks():
    assert metrics.ranking_scores([1, 2, 1, 4]) == pytest.approx({"accuracy": 0.5, "mrr": (1 + 0.5 + 1 + 0.25) / 4})


def test_translations_like_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    from xlm.tasks.metrics.translation import translation_scores

    references, guesses = ["the cat sat on the mat", "it is fine"], ["the cat sat on a mat", "it is very fine"]
    found = translation_scores(references, guesses)
    assert found["bleu"] == sacrebleu.corpus_bleu(guesses, [references]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(guesses, [references]).score
    assert str(found["bleu_signature"]).startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
