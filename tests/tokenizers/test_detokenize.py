"""Moses' words as running text: sacremoses beside us, and sentences that come back as they were."""

from __future__ import annotations

import pytest

from xlm.tokenizers import moses
from xlm.tokenizers.detokenize import detokenize

SENTENCES = {
    "en": [
        "Hello, world!",
        "The boys' books aren't here; they're (probably) at John's.",
        'He said: "It costs $5.50, doesn\'t it?"',
        "[See p. 3] 50% of all U.S. voters -- and more.",
        "'Tis a well-known fact, isn't it?",
    ],
    "de": ["Guten Morgen! Wie geht es dir?", 'Er sagte: "Das kostet 5,50 €."', "Am 3. Mai (Freitag) waren es 20%."],
    "fr": ["Qu'est-ce que c'est ? L'homme n'a pas dit : non !", "Il coûte 5 % de plus ; c'est l'été."],
    "it": ["L'uomo non c'era, com'è ovvio.", "Dov'è l'amico?"],
    "ro": ["Bună dimineața! Ce mai faci?", "Vreau să văd (mâine) filmul, nu-i așa?"],
    "es": ["¡Buenos días! ¿Cómo estás?"],
    "ru": ["Доброе утро! Как дела?"],
}
CASES = [(lang, text) for lang, texts in SENTENCES.items() for text in texts]


@pytest.mark.parametrize(("lang", "text"), CASES)
def test_as_sacremoses(lang: str, text: str) -> None:
    sacremoses = pytest.importorskip("sacremoses")
    words = sacremoses.MosesTokenizer(lang=lang).tokenize(text, escape=False)
    assert detokenize(words, lang) == sacremoses.MosesDetokenizer(lang=lang).detokenize(words, unescape=False)


@pytest.mark.parametrize(
    "words",
    ["中 国 很 大 。", "我 爱 NLP 和 机器 学习", "a 中 b", "` quoted ` and ' more '", "( [ x ] )", "„ Zitat “ !"],
)
@pytest.mark.parametrize("lang", ["en", "zh", "ko", "de", "fr"])
def test_odd_words_as_sacremoses(lang: str, words: str) -> None:
    sacremoses = pytest.importorskip("sacremoses")
    assert detokenize(words.split(), lang) == sacremoses.MosesDetokenizer(lang=lang).detokenize(
        words.split(), unescape=False
    )


@pytest.mark.parametrize(("lang", "text"), [case for case in CASES if "--" not in case[1]])
def test_sentences_come_back(lang: str, text: str) -> None:
    assert detokenize(moses.tokenizer(lang).words(text), lang) == text


def test_nothing_is_nothing() -> None:
    assert detokenize([]) == "" and detokenize(["", "a", ""]) == "a"
