"""Words are moved, left out and blanked as XLM does it, and always as a whole."""

import numpy as np
import pytest

from xlm.data.noise import Noise, Words
from xlm.errors import ConfigError

PIECES = ["▁a", "b", "▁c", "d", "e", "▁f"]
IDS = np.array([0, 1, 2, 3, 4, 5, 0, 1] * 5)


@pytest.mark.parametrize(
    ("pieces", "ids", "numbers"),
    [
        (PIECES, [0, 1, 2, 5, 3], [0, 0, 1, 2, 2]),
        (PIECES, [1, 1, 0], [0, 0, 1]),  # a text that begins within a word
        (["a", "b</w>", "c</w>"], [0, 1, 2, 0, 0], [0, 0, 1, 2, 2]),
        # Scripts without spaces: a piece a word; punctuation, marks and other letters belong to what they follow.
        (["▁", "今天", "天气", "很好", "。", "AI"], [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2]),
        (["▁วันนี้", "อากาศ", "ดี", "ั"], [0, 1, 2, 3], [0, 1, 2, 2]),
        (["▁東京", "タワー", "に", "▁", "行く"], [0, 1, 2, 3, 4], [0, 1, 2, 3, 3]),
        (["▁ថ្ងៃ", "នេះ", "▁ဒီနေ့", "ရာသီ"], [0, 1, 2, 3], [0, 1, 2, 3]),
        (["▁", "x", "▁오늘", "은"], [0, 1, 0, 2, 3], [0, 0, 1, 2, 2]),
    ],
)
def test_pieces_belong_to_words(pieces, ids, numbers):
    assert Words(pieces)(np.array(ids)).tolist() == numbers


def split(ids, words):
    return ["".join(map(str, ids[words == number])) for number in dict.fromkeys(words.tolist())]


def test_words_move_less_than_so_many_places_and_stay_whole():
    words = Words(PIECES)(IDS)
    before = split(IDS, words)
    furthest = 0
    for seed in range(50):
        moved = Noise(3.0, 0.0, 0.0)(np.arange(len(IDS)), words, 99, np.random.default_rng(seed))
        assert sorted(moved) == list(range(len(IDS)))
        order = list(dict.fromkeys(words[moved].tolist()))
        assert split(IDS[moved], words[moved]) == [before[number] for number in order]
        furthest = max(furthest, max(abs(place - number) for place, number in enumerate(order)))
    assert furthest == 2 or furthest == 3


def test_the_shares_of_words_are_what_was_asked():
    ids, words = np.arange(20_000), np.arange(20_000)
    rng = np.random.default_rng(0)
    assert len(Noise(0, 0.1, 0)(ids, words, -1, rng)) == pytest.approx(18_000, abs=200)
    assert (Noise(0, 0, 0.2)(ids, words, -1, rng) == -1).sum() == pytest.approx(4_000, abs=250)
    assert Noise(0, 0, 0)(ids, words, -1, rng) is ids


def test_one_word_always_stays():
    for seed in range(20):
        assert len(Noise(0, 0.99, 0)(np.arange(3), np.arange(3), -1, np.random.default_rng(seed))) >= 1


def test_a_blank_covers_all_pieces_of_a_word():
    words = Words(PIECES)(IDS)
    blanked = Noise(0, 0, 0.5)(IDS, words, -1, np.random.default_rng(1))
    hidden = blanked == -1
    assert hidden.any() and not hidden.all()
    assert all(hidden[words == number].all() or not hidden[words == number].any() for number in range(words[-1] + 1))


@pytest.mark.parametrize("bad", [{"shuffle": -1.0}, {"dropout": 1.0}, {"blank": float("nan")}])
def test_impossible_noise_is_refused(bad):
    with pytest.raises(ConfigError, match=f"noise.{next(iter(bad))}"):
        Noise(**bad)
