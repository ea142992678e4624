"""The table of benchmarks, and every published layout of their files."""

from pathlib import Path

import pytest

from evaluation.folders import jsonl, squad, write, xnli
from xlm.errors import DataError, InputError
from xlm.evaluation.benchmarks import SETTINGS, benchmark, benchmarks
from xlm.evaluation.reading import choose, places, read

METRICS = {
    "accuracy", "classes", "matthews", "binary_f1", "correlations", "chunk_f1", "tag_accuracy", "squad", "squad_v2", "mlqa",
    "translation_accuracy", "mining_f1",
}  # fmt: skip


def _of(layout, split):
    source = layout.get(split)
    return None if source is None else (source.path, *source.where.values())


@pytest.mark.parametrize("name", benchmarks())
def test_the_table_is_whole(name):
    one = benchmarks()[name]
    assert one.metric in METRICS and one.title and one.paper and one.files
    assert all({"test", "dev"} & set(layout) and set(layout) <= {"test", "dev", "train"} for layout in one.files)
    for split in ("test", "dev", "train"):  # a file is of one split alone
        for other in {"test", "dev", "train"} - {split}:
            assert not {_of(layout, split) for layout in one.files} & {_of(layout, other) for layout in one.files} - {
                None
            }
    for paper in one.published:
        assert paper.source and paper.setting in SETTINGS
        assert 0 < (paper.average or 50) < 100 and set(paper.scores) <= set(one.languages)
        if paper.scores:  # the average is of these numbers
            assert sum(paper.scores.values()) / len(paper.scores) == pytest.approx(paper.average, abs=0.06)


def test_unknown_benchmark():
    with pytest.raises(InputError, match="benchmark is 'nli': it must be one of xnli, pawsx"):
        benchmark("nli")


CONLLU = (
    "# text = A b\n1\tA\ta\tDET\t_\t_\t2\tdet\t_\t_\n2-3\tbc" + "\t_" * 8 + "\n2\tb\tb\tNOUN\t_\t_\t0\troot\t_\t_\n"
)
COPA = '{"premise": "P", "choice1": "a", "choice2": "b", "question": "cause", "label": 1}\n'
XNLI_HEAD = "language\tgold_label\tpairID\tsentence1\tsentence2\n"
MRPC_HEAD = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
# benchmark, split, files, language -> what the first example must be made of
LAYOUTS = [
    ("xnli", "dev", {"xnli.dev.tsv": XNLI_HEAD + 'de\tneutral\t1\tEr sagte "nein\tNein.\nur\tentailment\t2\tہاں\tنہیں\n'},
     "de", {"text": 'Er sagte "nein', "pair": "Nein.", "label": "neutral"}),
    ("xnli", "test", {"test-ur.tsv": "ہاں\tنہیں\tcontradiction\n"}, "ur", {"text": "ہاں", "label": "contradiction"}),
    ("xnli", "train", {"multinli/multinli.train.de.tsv": "premise\thypo\tlabel\na\tb\tcontradictory\n"},
     "de", {"label": "contradiction"}),
    ("pawsx", "test", {"x-final/zh/test_2k.tsv": "id\tsentence1\tsentence2\tlabel\n1\t甲\t乙\t0\n"},
     "zh", {"text": "甲", "pair": "乙", "label": "0"}),
    ("sib200", "test", {"data/annotated/arb_Arab/test.tsv": "index_id\tcategory\ttext\n7\ttravel\tسفر\n"},
     "arb_Arab", {"text": "سفر", "label": "travel"}),
    ("xcopa", "test", {"data/et/test.et.jsonl": COPA},
     "et", {"prompt": "P", "choices": ("a", "b"), "label": 1, "question": "cause"}),
    ("xquad", "test", {"xquad.el.json": squad(["Paris"])}, "el", {"question": "Question 0?"}),
    ("mlqa", "dev", {"dev/dev-context-de-question-de.json": squad(["Paris"])}, "de", {"language": "de"}),
    ("mlqa", "test", {"test/test-context-ar-question-hi.json": squad(["Paris"])}, "ar-hi", {"language": "ar"}),
    ("tydiqa", "dev", {"tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-telugu.json": squad(["Paris"])}, "te", {"language": "te"}),
    ("tydiqa", "train", {"tydiqa-goldp-v1.1-train/tydiqa.goldp.sw.train.json": squad(["Paris"])}, "sw", {}),
    ("squad2", "dev", {"dev-v2.0.json": squad(["Paris"])}, "en", {}),
    ("wikiann", "test", {"als/test": "als:Rom\tB-LOC\nals:isch\tO\n\n"},
     "als", {"words": ("Rom", "isch"), "tags": ("B-LOC", "O")}),
    ("wikiann", "dev", {"dev-he.tsv": "רומא\tB-LOC\n\nא\tI-PER\n"}, "he", {"words": ("רומא",)}),
    ("conll", "test", {"esp.testb": "Madrid NP B-LOC\n\n"}, "es", {"tags": ("B-LOC",)}),
    ("masakhaner", "dev", {"data/kin/dev.txt": "Kigali B-LOC\n\n"}, "rw", {"words": ("Kigali",)}),
    ("masakhaner", "train", {"data/yor/train.txt": "Ìbàdàn B-LOC\n\n"}, "yo", {"words": ("Ìbàdàn",)}),
    ("wikiann", "test", {"sw.test.conll": "Rome\tB-LOC\n\n", "sw.dev.conll": "x\tO\n\n"}, "sw", {"words": ("Rome",)}),
    ("conll", "test", {"nl.testb.conll": "Rome\tB-LOC\n\n", "nl.testa.conll": "x\tO\n\n"}, "nl", {"words": ("Rome",)}),
    ("masakhaner", "test", {"data/yor/test.txt": "Ìbàdàn B-LOC\n\n"}, "yo", {"words": ("Ìbàdàn",)}),
    ("udpos", "test", {"UD_French-GSD/fr_gsd-ud-test.conllu": CONLLU}, "fr", {"words": ("A", "b"), "tags": ("DET", "NOUN")}),
    ("tatoeba", "test", {"tatoeba.afr-eng.afr": "een\ntwee\n", "tatoeba.afr-eng.eng": "one\ntwo\n"},
     "afr", {"text": "een", "other": "one"}),
    ("flores", "test", {"devtest/fra_Latn.devtest": "un\n", "devtest/eng_Latn.devtest": "one\n"},
     "fra_Latn", {"other": "one"}),
    ("cola", "dev", {"CoLA/dev.tsv": "gj04\t1\t\tShe ran.\ngj04\t0\t*\tRan she the.\n"},
     "en", {"text": "She ran.", "label": "1"}),
    ("mrpc", "dev", {"MRPC/dev.tsv": MRPC_HEAD + "1\t2\t3\tA\tB\n"}, "en", {"text": "A", "pair": "B", "label": "1"}),
    ("stsb", "dev", {"STS-B/dev.tsv": "index\tsentence1\tsentence2\tscore\n0\tA\tB\t3.5\n"}, "en", {"label": 3.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "split", "files", "language", "expected"), LAYOUTS)
def test_published_layouts(tmp_path: Path, name, split, files, language, expected):
    for path, text in files.items():
        write(tmp_path / path, text)
    spec = benchmark(name)
    found = places(spec, tmp_path, split)
    first = read(choose(found, spec, [language])[language], spec)[0]
    assert {field: getattr(first, field) for field in expected} == expected


def test_all_treebanks_of_a_language_are_one_set(tmp_path: Path):
    write(tmp_path / "UD_French-GSD" / "fr_gsd-ud-test.conllu", CONLLU)
    write(tmp_path / "UD_French-PUD" / "fr_pud-ud-test.conllu", CONLLU.replace("\tA\t", "\tLe\t"))
    write(tmp_path / "UD_German-GSD" / "de_gsd-ud-test.conllu", CONLLU)
    spec = benchmark("udpos")
    found = places(spec, tmp_path)
    assert [example.words for example in read(found["fr"], spec)] == [("A", "b"), ("Le", "b")]
    assert len(read(found["de"], spec)) == 1
    write(tmp_path / "UD_French-PUD" / "fr_pud-ud-test.conllu", "1\tA\n\n")
    with pytest.raises(DataError, match=r"fr_pud-ud-test\.conllu:1: 2 columns where CoNLL-U has 10"):
        read(places(spec, tmp_path)["fr"], spec)


def test_bucc_as_released(tmp_path: Path):
    for path, text in {
        "zh-en.training.zh": "zh-1\t一\nzh-2\t二\nzh-3\t一\n",
        "zh-en.training.en": "en-1\tone\nen-2\ttwo\n",
        "zh-en.training.gold": "zh-2\ten-2\n",
    }.items():
        write(tmp_path / path, text)
    corpus = read(places(benchmark("bucc"), tmp_path)["zh"], benchmark("bucc"))
    assert corpus.ids == ("zh-2",), "a sentence that occurs twice has no id of its own"
    assert corpus.others == ("one", "two") and corpus.gold == (("zh-2", "en-2"),)


def test_the_folder_may_lie_below(tmp_path: Path):
    xnli(tmp_path / "pairs" / "xnli")
    assert list(choose(places(benchmark("xnli"), tmp_path), benchmark("xnli"), None)) == ["en", "de", "ur"]


def test_what_is_missing_is_named(tmp_path: Path):
    spec = benchmark("xnli")
    with pytest.raises(DataError, match="no such folder"):
        places(spec, tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"no file of xnli's split 'test': looked for \{language\}.jsonl\[.gz\], xnli.test.tsv"
    ):
        places(spec, tmp_path)
    found = places(spec, xnli(tmp_path))
    with pytest.raises(DataError, match="no file for fr: there are de, en, ur"):
        choose(found, spec, ["fr"])
    with pytest.raises(DataError, match="split is 'dev': xquad has test"):
        places(benchmark("xquad"), tmp_path, "dev")


@pytest.mark.parametrize(
    ("name", "path", "text", "message"),
    [
        (
            "xnli",
            "test-en.tsv",
            "a\tb\tneutral\na\tb\n",
            "test-en.tsv:2: 2 columns where 3 are needed: text, pair, label",
        ),
        ("xcopa", "data/et/test.et.jsonl", COPA.replace(": 1", ": 2"), "label is '2': it must be from 0 to 1"),
        (
            "xcopa",
            "data/et/test.et.jsonl",
            COPA.replace("choice2", "c"),
            "the columns premise, choice1, choice2, label are",
        ),
        (
            "sts",
            "en.test.jsonl",
            '{"sentence1": "a", "sentence2": "b", "score": "high"}\n',
            "score 'high' is not a number",
        ),
        ("sts", "en.test.jsonl", '{"sentence1": "a", "score": 1}\n', "'a' has no second text"),
        ("wikiann", "en.test.conll", "Rome\n\n", "a word and a tag are needed"),
        ("xquad", "xquad.en.json", squad(["Paris"]).replace('"answer_start": 15', '"answer_start": 3'), "is not at 3"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, name, path, text, message):
    write(tmp_path / path, text)
    spec = benchmark(name)
    with pytest.raises(DataError, match=message):
        read(next(iter(places(spec, tmp_path).values())), spec)


def test_bad_records_are_named(tmp_path: Path):
    spec = benchmark("xnli")
    jsonl(tmp_path / "en.jsonl", [{"premise": "a", "hypothesis": "b", "label": "maybe", "split": "test"}])
    with pytest.raises(
        DataError, match=r"en.jsonl: unknown label 'maybe': xnli has entailment, neutral, contradiction"
    ):
        read(places(spec, tmp_path)["en"], spec)
    write(tmp_path / "en.jsonl", "")
    with pytest.raises(DataError, match="not one example"):
        read(places(spec, tmp_path)["en"], spec)
    write(tmp_path / "tatoeba.afr-eng.afr", "een\ntwee\n")
    write(tmp_path / "tatoeba.afr-eng.eng", "one\n")
    spec = benchmark("tatoeba")
    with pytest.raises(InputError, match="2 lines, its English side has 1"):
        read(places(spec, tmp_path)["afr"], spec)
