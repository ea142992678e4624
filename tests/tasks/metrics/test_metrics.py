"""What the metrics refuse, and the intervals."""

import numpy as np
import pytest

from xlm.errors import InputError
from xlm.tasks import metrics
from xlm.tasks.metrics import answers, chunks, classes, mining, ranking


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.classification_scores([], []), "the evaluation set is empty"),
        (lambda: metrics.classification_scores(["a", "b"], ["a"]), "predicted: 1 items for 2 in gold"),
        (lambda: metrics.tagging_scores([["B-X", "O"]], [["O"]]), r"predicted\[0\]: 1 tags for 2 words"),
        (lambda: metrics.tagging_scores([["B-X"]], [["NOUN"]]), r"predicted\[0\]: tags\[0\] is 'NOUN'"),
        (lambda: metrics.answer_scores([["a"]], []), "predicted: 0 answers for 1 in gold"),
        (lambda: answers.squad([["a"], []], ["a", ""]), r"gold\[1\]: no right answer"),
        (lambda: answers.mlqa([["a"]], ["a"], "fr"), "language is 'fr': MLQA's metric defines en, es, hi"),
        (lambda: classes.classes(["a"], ["z"], ["a", "b"]), "predicted: unknown labels z: the labels are a, b"),
        (lambda: metrics.regression_scores([1.0], [float("nan")]), "predicted: value 0 is not a finite number"),
        (lambda: metrics.ranking_scores([0]), "0 is below 1"),
        (lambda: mining.mine(np.zeros((0, 2), np.float32), np.zeros((1, 2), np.float32)), "source: no sentences"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_intervals_hold_the_score_and_narrow_with_more_items():
    rng = np.random.default_rng(0)

    def width(count: int) -> float:
        gold = rng.integers(0, 3, count)
        guess = np.where(rng.random(count) < 0.7, gold, (gold + 1) % 3)
        found = classes.accuracy(gold.tolist(), guess.tolist())
        low, high = found.intervals()["accuracy"]
        assert low <= found.scores["accuracy"] <= high
        return high - low

    wide, narrow = width(100), width(2500)
    assert wide == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.21 / 100), rel=0.25)
    assert narrow == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.21 / 2500), rel=0.25)


def test_intervals_are_the_same_every_time_and_resample_translations_together():
    gold = list("abcabcabba") * 10
    found = classes.classes(gold, gold[::-1], ["a", "b", "c"])
    assert found.intervals() == found.intervals()
    other = classes.accuracy(gold, gold[::-1])
    assert (found.replicates()["accuracy"] == other.replicates()["accuracy"]).all()


def test_resampled_scores_are_those_of_the_resampled_items():
    rng = np.random.default_rng(1)
    gold = [["B-X", "I-X", "O"], ["O", "B-Y", "O"], ["B-X", "B-X", "O"], ["O", "O", "B-Y"]]
    guess = [["B-X", "O", "O"], ["O", "B-Y", "O"], ["B-X", "I-X", "O"], ["B-Y", "O", "B-Y"]]
    chosen = rng.integers(0, 4, 6)
    weights = np.bincount(chosen, minlength=4).astype(float)[None]
    resampled = chunks.chunk_f1(gold, guess).resample(weights)
    again = chunks.chunk_f1([gold[i] for i in chosen], [guess[i] for i in chosen]).scores
    assert {name: float(values[0]) for name, values in resampled.items()} == pytest.approx(again)


def test_no_answer_is_right_when_there_is_none():
    assert metrics.answer_scores([[], [""], ["x"]], ["", "", "y"]) == pytest.approx(
        {"exact_match": 200 / 3, "f1": 200 / 3}
    )


def test_everything_mined_has_a_threshold_after_the_last():
    scored = {("a", "b"): 1.2}
    assert mining.best_threshold(scored, {("a", "b")}) == 1.2
    assert mining.best_threshold({}, {("a", "b")}) == 0.0


def test_lists_are_scored_as_scikit_learn_does():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    gains = [[1.0, 0.0, *rng.choice([0, 0.3, 0.8], size).tolist()] for size in (1, 8, 15, 30)]
    scores = [rng.permutation(len(one)).astype(float).tolist() for one in gains]
    found = ranking.ranked_lists(gains, scores).scores
    each = [sklearn.ndcg_score([a], [b], k=10) for a, b in zip(gains, scores, strict=True)]
    assert found["ndcg_at_10"] == pytest.approx(100 * np.mean(each))
    tied = ranking.ranked_lists([[1.0, 0.0]], [[0.5, 0.5]]).scores
    assert tied["mrr"] == 50 and tied["accuracy"] == 0
    with pytest.raises(InputError, match="query 0 needs documents with a gain of"):
        ranking.ranked_lists([[1.0, 1.0]], [[0.5, 0.5]])


def test_ranks_of_partners_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    here, there = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    others = [str(number % 40) for number in range(50)]
    expected = []
    for number, row in enumerate(here @ there.T):
        rivals = [row[k] for k in range(50) if others[k] != others[number]]
        expected.append(1 + sum(value >= row[number] for value in rivals))
    whole = ranking.partner_ranks(lambda start, end: here[start:end] @ there.T, others)
    monkeypatch.setattr(ranking, "_ROWS", 7)
    parts = ranking.partner_ranks(lambda start, end: here[start:end] @ there.T, others)
    assert whole[0].tolist() == parts[0].tolist() == expected and whole[1].tolist() == parts[1].tolist()
    assert all((near == at) == (rank == 1) for at, (rank, near) in enumerate(zip(*whole, strict=True)))
