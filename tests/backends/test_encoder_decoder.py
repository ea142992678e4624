"""Encoder-decoders: packed equals padded, caches, files, sharing, languages, errors; and transformers' class beside ours."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import xlm
from xlm import Batch, EncoderDecoderConfig, EncoderDecoderModel
from xlm.backends.torch.crossing import Crossing

FAMILIES = ("xlm", "xlm-roberta", "xlm-roberta-xl")
EVERY = pytest.mark.parametrize("family", FAMILIES)
LANGUAGES = {"de": 0, "en": 1}


def side(family: str, **more: Any) -> Any:
    named = {"lang2id": LANGUAGES} if family == "xlm" else {}
    return xlm.AutoConfig.for_model(family, **tiny.options(family), **named, **more)


def model(family: str, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    made = EncoderDecoderModel(EncoderDecoderConfig(side(family), side(family), **more)).eval()
    return tiny.stir(made)


def rows(family: str, lengths: list[int], seed: int) -> torch.Tensor:
    ids = torch.randint(5, tiny.VOCAB, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        ids[row, length:] = tiny.pad_id(family)
    return ids


def spoken(family: str, source: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    if family != "xlm":
        return {}
    return {"langs": torch.zeros_like(source), "decoder_langs": torch.ones_like(target)}


def packed(ids: torch.Tensor, pad: int, language: int | None) -> Batch:
    real = ids != pad
    flat = ids[real]
    languages = None if language is None else torch.full_like(flat, language)
    return Batch.packed(flat, real.sum(1).tolist(), languages=languages)


@EVERY
@pytest.mark.parametrize("lengths", [([7, 3, 5, 1], [4, 6, 2, 5]), ([20, 1, 2, 19, 1], [2, 19, 1, 18, 2])], ids=str)
def test_packed_is_padded(family: str, lengths: Any) -> None:
    made, pad = model(family).double().train(), tiny.pad_id(family)  # tiny models drop nothing out
    source, target = (rows(family, some, seed) for seed, some in enumerate(lengths))
    real = target != pad
    out = made(
        source,
        (source != pad).long(),
        decoder_input_ids=target,
        decoder_attention_mask=real.long(),
        **spoken(family, source, target),
    )
    weights = torch.randn(int(real.sum()), tiny.VOCAB, generator=torch.Generator().manual_seed(7)).double()
    (out.logits[real] * weights).sum().backward()
    wanted = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    known = family == "xlm"
    read, written = packed(source, pad, 0 if known else None), packed(target, pad, 1 if known else None)
    states = made.decode_packed(written, made.encode_packed(read), read)
    logits = made.lm_logits(states)
    torch.testing.assert_close(logits, out.logits[real], rtol=1e-9, atol=1e-9)
    (logits * weights).sum().backward()
    found = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def test_rectangles_hold_every_pair_once_and_waste_little() -> None:
    generator = torch.Generator().manual_seed(0)
    for spread in (3, 60, 500):
        lengths = torch.randint(1, spread, (2, 80), generator=generator).tolist()
        crossing = Crossing.of(lengths[0], lengths[1], torch.device("cpu"))
        used = torch.cat([one.query_rows for one in crossing.rectangles])
        assert sorted(used.tolist()) == list(range(sum(lengths[0])))
        area = sum(one.pairs * one.queries * one.keys for one in crossing.rectangles)
        held = sum(t * s for t, s in zip(*lengths, strict=True))
        assert area <= 2 * held + 4096 * len(crossing.rectangles)
    assert len(crossing.rectangles) > 1


@EVERY
def test_cached_steps_are_the_full_pass(family: str) -> None:
    made = model(family)
    source, target = rows(family, [6, 4], 0), rows(family, [7, 7], 1)
    more = spoken(family, source, target)
    full = made(source, decoder_input_ids=target, **more)
    past, logits = None, []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        now = more | ({"decoder_langs": more["decoder_langs"][:, start:end]} if more else {})
        out = made(source, decoder_input_ids=target[:, start:end], past_key_values=past, use_cache=True, **now)
        past = out.past_key_values
        logits.append(out.logits)
    torch.testing.assert_close(torch.cat(logits, 1), full.logits, rtol=1e-5, atol=1e-5)
    assert [tuple(t.shape) for t in past[0]] == [(2, 2, 7, 8), (2, 2, 7, 8), (2, 2, 6, 8), (2, 2, 6, 8)]


@EVERY
@pytest.mark.parametrize("share", [True, False])
def test_saved_and_loaded(family: str, share: bool, tmp_path: Path) -> None:
    made = model(family, share_embeddings=share)
    source, target = rows(family, [6, 4], 0), rows(family, [7, 3], 1)
    made.save_pretrained(tmp_path)
    back = xlm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert back.config == xlm.AutoConfig.from_pretrained(tmp_path) and isinstance(back, EncoderDecoderModel)
    more = spoken(family, source, target)
    one, two = (m(source, labels=target, **more) for m in (made, back))
    assert torch.equal(one.logits, two.logits) and torch.equal(one.loss, two.loss)
    names = set(xlm_names(tmp_path))
    words = [name for name in names if "word_embeddings" in name or name.endswith(".embeddings.weight")]
    assert len(words) == (1 if share else 2)
    assert (
        back.decoder.roberta.embeddings.word_embeddings.weight is back.encoder.embeddings.word_embeddings.weight
    ) is share
    assert back.num_parameters() == made.num_parameters()
    state = xlm.EncoderDecoderModel(made.config)
    state.load_state_dict(made.state_dict())
    assert torch.equal(state.eval()(source, labels=target, **more).logits, one.logits)


def xlm_names(folder: Path) -> list[str]:
    from xlm.checkpoints.files import open_checkpoint

    return open_checkpoint(folder).names


@EVERY
def test_begins_from_pretrained_sides(family: str, tmp_path: Path) -> None:
    head = next(h for h in tiny.ONE_A_FAMILY if h.family == family)
    named: dict[str, Any] = {"lang2id": LANGUAGES} if family == "xlm" else {}
    pretrained = tiny.model(head, **named)
    pretrained.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path)
    source = rows(family, [6, 4], 0)
    want = pretrained.roberta(source, attention_mask=source != tiny.pad_id(family)).last_hidden_state
    batch = Batch.padded(source, source != tiny.pad_id(family))
    torch.testing.assert_close(made.states(batch).view_as(want), want)
    own = dict(pretrained.named_parameters())
    for name, p in made.decoder.named_parameters():
        if "crossattention" not in name:
            assert torch.equal(p, own[name]), name
        elif name.endswith("query.weight"):
            assert 0 < float(p.std().detach()) < 1
    assert pretrained.config.is_decoder is False
    apart = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, share_embeddings=False)
    assert apart.num_parameters() > made.num_parameters()


def test_a_causal_language_model_begins_both_sides(tmp_path: Path) -> None:
    head = next(h for h in tiny.ONE_A_FAMILY if h.family == "xlm")
    tiny.model(head, causal=True).save_pretrained(tmp_path)
    made = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path)
    assert made.encoder.spec.causal_only is False and made.decoder.spec.is_decoder is True
    source = rows("xlm", [5], 0)
    changed = source.clone()
    changed[0, -1] = 6 if source[0, -1] != 6 else 7
    states = [made.encoder(ids).last_hidden_state[0, 0] for ids in (source, changed)]
    assert not torch.allclose(*states)


@EVERY
def test_the_decoder_sees_no_later_token_and_every_source_token(family: str) -> None:
    made = model(family)
    source, target = rows(family, [6, 4], 0), rows(family, [7, 7], 1)
    more = spoken(family, source, target)
    logits = made(source, decoder_input_ids=target, **more).logits
    later, read = target.clone(), source.clone()
    later[:, 4] = (later[:, 4] - 4) % 30 + 5
    read[0, 5] = (read[0, 5] - 4) % 30 + 5
    assert torch.equal(made(source, decoder_input_ids=later, **more).logits[:, :4], logits[:, :4])
    changed = made(read, decoder_input_ids=target, **more).logits
    assert not torch.allclose(changed[0, 0], logits[0, 0]) and torch.equal(changed[1], logits[1])


def test_unsharing_leaves_the_outputs(tmp_path: Path) -> None:
    made = model("xlm-roberta")
    source, target = rows("xlm-roberta", [6, 4], 0), rows("xlm-roberta", [7, 3], 1)
    want = made(source, labels=target).logits
    before = made.num_parameters()
    made.unshare_embeddings()
    assert made.num_parameters() > before and torch.equal(made(source, labels=target).logits, want)
    made.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["share_embeddings"] is False


@EVERY
def test_vocabulary_resizes_on_both_sides(family: str) -> None:
    made = model(family)
    made.resize_token_embeddings(tiny.VOCAB + 3)
    assert made.config.vocab_size == made.encoder.config.vocab_size == tiny.VOCAB + 3
    assert made.get_input_embeddings().weight is made.decoder.get_input_embeddings().weight
    ids = torch.full((1, 3), tiny.VOCAB + 2)
    assert made(ids, labels=ids).logits.shape == (1, 3, tiny.VOCAB + 3)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    source, target = rows("xlm", [6, 4], 0), rows("xlm", [7, 3], 1)
    found = []
    for recompute in (False, True):
        made = model("xlm").train()
        if recompute:
            made.gradient_checkpointing_enable()
        made(source, labels=target).loss.backward()
        found.append([p.grad for p in made.parameters() if p.grad is not None])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


# -- generation -------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_do_not_depend_on_their_neighbours(family: str, beams: int) -> None:
    made = model(family)
    made.lm_head.decoder.bias.data[made.config.eos_token_id] += 1.5  # so that rows end at different times
    source = rows(family, [6, 4, 7, 1], 0)
    more = {"langs": "de", "target_lang": ["en", "de", "en", "en"]} if family == "xlm" else {}
    together = made.generate(source, num_beams=beams, max_new_tokens=9, **more)
    assert len({int((row == made.config.eos_token_id).sum()) for row in together}) > 0
    for row in range(4):
        own = source[row : row + 1, : int((source[row] != made.spec.pad_id).sum())]
        alone = made.generate(
            own, num_beams=beams, max_new_tokens=9, **(more and more | {"target_lang": more["target_lang"][row]})
        )
        want = together[row]
        assert torch.equal(alone[0], want[: alone.shape[1]]) and bool(
            (want[alone.shape[1] :] == made.spec.pad_id).all()
        )


def test_greedy_follows_the_forward() -> None:
    made = model("xlm")
    source = rows("xlm", [6, 4], 0)
    found = made.generate(source, langs="de", target_lang="en", max_new_tokens=6)
    ids = torch.full((2, 1), made.config.decoder_start_token_id)
    for _ in range(6):
        out = made(source, langs=torch.zeros_like(source), decoder_input_ids=ids, decoder_langs=torch.ones_like(ids))
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], 1)
    ended = (ids[:, 1:] == made.config.eos_token_id).cumsum(1).cumsum(1) > 1
    ids[:, 1:][ended] = made.spec.pad_id
    assert torch.equal(found, ids[:, : found.shape[1]])
    assert made.config.decoder_start_token_id == made.config.eos_token_id == 1


def test_samples_follow_the_model() -> None:
    made = model("xlm-roberta")
    source = rows("xlm-roberta", [5], 0)
    p = made(source, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, 0].softmax(-1)
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 1, "top_k": 0, "generator": generator}
    drawn = made.generate(source, num_return_sequences=4000, **options)[:, 1]
    counts = torch.bincount(drawn, minlength=len(p)) / 4000
    assert float((counts - p).abs().max().detach()) < 0.04
    few = made.generate(source, num_return_sequences=200, **options | {"top_k": 3})[:, 1]
    assert set(few.tolist()) <= set(p.topk(3).indices.tolist())
    beams = made.generate(source, num_beams=3, do_sample=True, max_new_tokens=5, generator=generator)
    assert beams.shape[0] == 1 and beams.shape[1] <= 6


def test_languages_decide_the_target() -> None:
    made = model("xlm")
    made.encoder.embeddings.language_embeddings.weight.data *= 20  # both sides' table
    source = rows("xlm", [6, 4], 0)

    def drawn(**target: Any) -> torch.Tensor:
        options = {"do_sample": True, "num_return_sequences": 30, "generator": torch.Generator().manual_seed(0)}
        return made.generate(source, langs="de", max_new_tokens=4, **target, **options)

    one, two = drawn(target_lang="en"), drawn(target_lang="de")
    assert not torch.equal(one, two)
    assert torch.equal(drawn(decoder_langs=torch.tensor([1, 1])), one) and torch.equal(drawn(target_lang=1), one)
    starts = {"en": 7, "de": 8}
    tokens = model("xlm-roberta", decoder_start_token_ids=starts)
    source = rows("xlm-roberta", [6, 4], 0)
    found = tokens.generate(source, target_lang=["de", "en"], max_new_tokens=3)
    assert found[:, 0].tolist() == [8, 7]


def test_each_side_has_languages_of_its_own() -> None:
    other = {"en": 0, "de": 1}
    sides = side("xlm"), xlm.AutoConfig.for_model("xlm", **tiny.options("xlm"), lang2id=other)
    with pytest.raises(
        xlm.ConfigError, match=r"share_embeddings=True: lang2id is .* in the encoder and .* in the decoder"
    ):
        EncoderDecoderConfig(*sides)
    config = EncoderDecoderConfig(*sides, share_embeddings=False)
    assert config.source_side("de").language == 0 and config.target_side("de").language == 1
    mixed = EncoderDecoderConfig(sides[0], side("xlm-roberta"), share_embeddings=False)
    assert mixed.source_side("en").language == 1 and mixed.target_side("en").language is None
    with pytest.raises(xlm.InputError, match="source='fr': must be one of de, en"):
        mixed.source_side("fr")


def test_what_is_not_said_about_length_follows_the_source() -> None:
    made = model("xlm-roberta")
    made.lm_head.bias.data[2] = -1e4
    assert made.generate(rows("xlm-roberta", [4, 2], 0)).shape[1] == 1 + int(1.5 * 4) + 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_lang": "fr"}, "target='fr': must be one of de, en"),
        ({"target_lang": None}, "target is missing: must be one of de, en"),
        ({"langs": "fr", "target_lang": "en"}, "source='fr': must be one of de, en"),
        ({"target_lang": "en", "max_new_tokens": 50}, "max_new_tokens=50: .* positions for 20 tokens"),
        ({"target_lang": "en", "max_new_token": 5}, "max_new_token=5: generate knows no such argument"),
        ({"target_lang": "en", "num_beams": 0}, "num_beams=0"),
        ({"target_lang": "en", "early_stopping": "soon"}, "early_stopping='soon'"),
        ({"target_lang": ["en"]}, "1 languages for 2 sources"),
        ({"target_lang": "en", "temperature": 0.0, "do_sample": True}, "temperature=0.0"),
    ],
)
def test_bad_searches_are_refused(options: dict[str, Any], words: str) -> None:
    made = model("xlm")
    with pytest.raises(xlm.InputError, match=words):
        made.generate(rows("xlm", [6, 4], 0), **{"langs": "de", "max_new_tokens": 5, **options})


def test_bad_sources_are_refused() -> None:
    made = model("xlm-roberta")
    with pytest.raises(xlm.InputError, match="at least one token"):
        made.generate(torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(xlm.InputError, match="30 tokens: the model has positions for 20"):
        made.generate(torch.full((1, 30), 6), max_new_tokens=3)
    with pytest.raises(xlm.InputError, match="there is no target"):
        made(torch.full((1, 3), 6))
    one, two = Batch.packed(torch.full((4,), 6), [2, 2]), Batch.packed(torch.full((3,), 6), [3])
    with pytest.raises(xlm.InputError, match="1 targets and 2 sources"):
        made.decode_packed(two, made.encode_packed(one), one)


def test_bad_configs_are_refused() -> None:
    narrow = xlm.XLMRobertaConfig(**tiny.options("xlm-roberta") | {"hidden_size": 8})
    with pytest.raises(xlm.ConfigError, match="encoder of width 16 and decoder of width 8"):
        EncoderDecoderConfig(side("xlm-roberta"), narrow)
    with pytest.raises(xlm.ConfigError, match="share_embeddings=True: max_positions is 20 in the encoder and 22"):
        EncoderDecoderConfig(side("xlm"), side("xlm-roberta"))
    with pytest.raises(xlm.ConfigError, match="encoder=NoneType"):
        EncoderDecoderConfig(decoder=side("xlm"))
    with pytest.raises(xlm.ConfigError, match=r"decoder_start_token_ids\['de'\]=99: must be below vocab_size=41"):
        EncoderDecoderConfig(side("xlm"), side("xlm"), decoder_start_token_ids={"de": 99})
    config = EncoderDecoderConfig(side("xlm"), side("xlm"), directions=[["de", "en"]])
    config.check_direction("de", "en")
    config.check_direction(None, 1)
    with pytest.raises(xlm.InputError, match="target='de': this model translates de-en"):
        config.check_direction("de", "de")
    with pytest.raises(xlm.InputError, match="source='en': this model translates de-en"):
        config.check_direction("en", "de")


# -- transformers -----------------------------------------------------------------------------------------------------


def reference(eos: float = 0.0) -> tuple[Any, Any]:
    """An XLM-R pair of transformers', and ours with the same weights."""
    transformers = pytest.importorskip("transformers", minversion="5.0")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    options = tiny.options("xlm-roberta")
    reads = transformers.XLMRobertaConfig(**options)
    writes = transformers.XLMRobertaConfig(**options, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(reads, writes)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = 1, 0, 2
    theirs = tiny.stir(transformers.EncoderDecoderModel(config).eval())
    theirs.decoder.lm_head.bias.data[2] += eos
    ours = EncoderDecoderModel(EncoderDecoderConfig.from_dict(config.to_dict())).eval()
    xlm.load_reference_state_dict(ours, theirs.state_dict())
    return theirs, ours


@pytest.mark.filterwarnings("ignore")
def test_interchanges_with_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    theirs, ours = reference()
    source, labels = rows("xlm-roberta", [7, 5, 2], 0), rows("xlm-roberta", [6, 3, 5], 1)
    labels[2, 3:] = -100
    mask = (source != 1).long()
    want = theirs(source, attention_mask=mask, labels=labels, output_attentions=True, output_hidden_states=True)
    theirs.save_pretrained(tmp_path / "theirs")
    read = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    read.save_pretrained(tmp_path / "ours")
    back = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "ours").eval()
    for made in (ours, read):
        found = made(source, mask, labels=labels, output_hidden_states=True)
        for name in ("loss", "logits", "encoder_last_hidden_state", "decoder_hidden_states", "encoder_hidden_states"):
            torch.testing.assert_close(found[name], want[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        back(source, attention_mask=mask, labels=labels).logits, want.logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("eos", "seed"),
    [(2.0, 0), *(pytest.param(eos, seed, marks=pytest.mark.slow) for eos in (0.0, 2.0, 4.0) for seed in (1, 2))],
)
def test_searches_as_transformers_does(eos: float, seed: int) -> None:
    theirs, ours = reference(eos)
    source = rows("xlm-roberta", [7, 5, 7, 2], seed)
    mask = (source != 1).long()
    extra = ({}, {"no_repeat_ngram_size": 2}, {"min_length": 5, "num_return_sequences": 2}, {"repetition_penalty": 1.3})
    cases = [{}, {"min_length": 4}, {"no_repeat_ngram_size": 2}]
    for beams, penalty, early in itertools.product((2, 5), (0.0, 0.6, 1.0, 2.0, -1.0), (False, True, "never")):
        chosen = extra[len(cases) % len(extra)]
        cases.append({"num_beams": beams, "length_penalty": penalty, "early_stopping": early, **chosen})
    for case in cases:
        options = {"max_new_tokens": 12, "do_sample": False, **case}
        want = theirs.generate(source, attention_mask=mask, **options)
        found = ours.generate(source, mask, **options)
        assert found.tolist() == want.tolist(), options
