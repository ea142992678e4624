"""What keywords of ``from_pretrained`` become: options, config fields, arguments of the class, or an error that names them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frameworks
import tiny
import xlm
from xlm import ArgumentError, CheckpointError, ConfigError, InputError
from xlm.families.config import PretrainedConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
HEAD = tiny.ONE_A_FAMILY[1]
CLASSIFIER = next(h for h in tiny.HEADS if h.name == "XLMRobertaForSequenceClassification")


ALL = [frameworks.Torch(), *frameworks.FRAMEWORKS]
EACH = pytest.mark.parametrize("framework", ALL, ids=lambda f: f.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model(HEAD).save_pretrained(folder)
    return folder


def auto(framework: Any) -> Any:
    return getattr(xlm, framework.prefix + "AutoModelForMaskedLM")


REFUSED = [
    ({"num_label": 3}, "num_label=3: neither .* did you mean num_labels"),
    ({"load_in_8bit": True}, "load_in_8bit=True: not offered; .*xlm quantize"),
    ({"load_in_4bit": True}, "load_in_4bit=True: not offered"),
    ({"quantization_config": {"bits": 8}}, "quantization_config=.*not offered"),
    ({"max_memory": {0: "1GB"}}, "max_memory=.*not offered"),
]


@EACH
def test_unknown_keywords_are_refused(framework: Any, folder: Path) -> None:
    for load in (
        lambda **o: framework.load(HEAD, folder, **o),
        lambda **o: auto(framework).from_pretrained(folder, **o),
    ):
        for options, message in REFUSED:
            with pytest.raises(ArgumentError, match=message):
                load(**options)
        with pytest.raises(InputError, match=r"proxies=.*HTTPS_PROXY"):
            load(proxies={"https": "somewhere:1"})
    with pytest.raises(ArgumentError, match=r"hidden_dropout_prob=0.3: neither .* set config fields in config"):
        framework.load(HEAD, folder, config=tiny.config(HEAD), hidden_dropout_prob=0.3)


@EACH
def test_keywords_that_change_nothing_stay_out_of_the_config(framework: Any, folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        cls = getattr(xlm, framework.prefix + HEAD.name)
        model = cls.from_pretrained(
            folder, trust_remote_code=True, offload_folder="x", load_in_8bit=False, low_cpu_mem_usage=True,
            hidden_dropout_prob=0.3,
        )  # fmt: skip
    said = [str(w.message) for w in heard if "is ignored" in str(w.message)]
    assert [text.partition("=")[0] for text in said] == ["trust_remote_code", "offload_folder"]
    assert model.config.hidden_dropout_prob == 0.3
    model.save_pretrained(tmp_path)
    known = {"_name_or_path", *model.config.defaults, *json.loads((folder / "config.json").read_text("utf-8"))}
    assert json.loads((tmp_path / "config.json").read_text("utf-8")).keys() <= known


@EACH
def test_arguments_of_the_class_reach_it(framework: Any, folder: Path) -> None:
    base = tiny.MODELS[1]
    assert len(framework.tensors(framework.load(base, folder))) == 2 + len(
        framework.tensors(framework.load(base, folder, add_pooling_layer=False))
    )
    if framework.name == "keras":
        model = framework.load(base, folder, name="mine", trainable=False)
        assert model.name == "mine" and not model.trainable_weights
    if framework.name == "flax":
        assert framework.load(base, folder, seed=7, gradient_checkpointing=True).gradient_checkpointing


@EACH
def test_a_given_config_is_copied(framework: Any, folder: Path) -> None:
    config = tiny.config(HEAD, hidden_dropout_prob=0.25)
    before = config.to_dict()
    model = framework.load(HEAD, folder, config=config)
    assert model.config is not config and model.config.hidden_dropout_prob == 0.25
    model.config.architectures = ["Other"]
    assert config.to_dict() == before


@EACH
def test_a_config_may_be_a_folder(framework: Any, folder: Path, tmp_path: Path) -> None:
    tiny.config(HEAD, hidden_dropout_prob=0.25).save_pretrained(tmp_path)
    for config in (tmp_path, str(tmp_path)):
        model = framework.load(HEAD, folder, config=config, attention_probs_dropout_prob=0.5)
        assert (model.config.hidden_dropout_prob, model.config.attention_probs_dropout_prob) == (0.25, 0.5)
    found = auto(framework).from_pretrained(folder, config=str(tmp_path), attention_probs_dropout_prob=0.5)
    assert (found.config.hidden_dropout_prob, found.config.attention_probs_dropout_prob) == (0.25, 0.5)
    assert type(auto(framework).from_pretrained(folder, config=found.config)) is type(found)


@pytest.mark.parametrize("framework", [f for f in ALL if f.name != "keras"], ids=lambda f: f.name)
def test_a_state_dict_needs_no_folder(framework: Any, folder: Path) -> None:
    want = framework.tensors(framework.load(HEAD, folder))
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in want.items()}
    if framework.name != "torch":
        state = {name: tensor.numpy() for name, tensor in state.items()}
    have = framework.tensors(framework.load(HEAD, None, config=tiny.config(HEAD), state_dict=state))
    assert have.keys() == want.keys() and all(np.array_equal(have[name], want[name]) for name in want)
    with pytest.raises(InputError, match="give a folder or hub name"):
        framework.load(HEAD, None, config=tiny.config(HEAD))
    with pytest.raises(InputError, match="give a folder or hub name"):
        framework.load(HEAD, None, state_dict=state)


@EACH
def test_variants(framework: Any, folder: Path, tmp_path: Path) -> None:
    model = framework.load(HEAD, folder)
    model.save_pretrained(tmp_path)
    other = framework.load(HEAD, folder, config=tiny.config(HEAD), ignore_mismatched_sizes=True)
    other.save_pretrained(tmp_path, variant="fp16")
    other.save_pretrained(tmp_path, variant="many", max_shard_size=4000)
    there = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "model.fp16.safetensors", "model.safetensors.index.many.json"} <= there
    assert any(name.startswith("model.many-00001-of-") for name in there)
    (tmp_path / "model.safetensors").unlink()
    want = framework.tensors(model)
    for variant in ("fp16", "many"):
        have = framework.tensors(framework.load(HEAD, tmp_path, variant=variant))
        assert have.keys() == want.keys() and all(np.array_equal(have[name], want[name]) for name in want)
    with pytest.raises(
        CheckpointError, match=r"no weights of the variant 'bf16' found; looked for model.bf16.safetensors"
    ):
        framework.load(HEAD, tmp_path, variant="bf16")
    with pytest.raises(InputError, match=r"variant='\.\./x'"):
        framework.load(HEAD, tmp_path, variant="../x")
    # Saving in one shard again leaves the other variants as they are.
    other.save_pretrained(tmp_path, variant="many")
    assert not list(tmp_path.glob("model.many-0*")) and (tmp_path / "model.fp16.safetensors").is_file()


def test_unknown_arguments_of_saving_are_refused(tmp_path: Path) -> None:
    model = tiny.model(HEAD)
    with pytest.raises(ArgumentError, match=r"max_shard='1GB': no argument of .*save_pretrained"):
        model.save_pretrained(tmp_path / "a", max_shard="1GB")
    with pytest.raises(ArgumentError, match="repo_id='a/b': is for push_to_hub=True"):
        model.config.save_pretrained(tmp_path / "a", repo_id="a/b")
    assert not (tmp_path / "a").exists()


def test_keywords_of_configs(folder: Path) -> None:
    with pytest.warns(UserWarning, match="num_label: no fields of XLMRobertaConfig, ignored") as heard:
        config = xlm.XLMRobertaConfig.from_pretrained(folder, num_label=3, hidden_dropout_prob=0.5)
    assert len(heard) == 1
    assert config.hidden_dropout_prob == 0.5 and not hasattr(config, "num_label")
    config, unused = xlm.AutoConfig.from_pretrained(folder, num_label=3, num_labels=4, return_unused_kwargs=True)
    assert config.num_labels == 4 and unused == {"num_label": 3}
    data, rest = PretrainedConfig.get_config_dict(folder, revision="main", num_labels=4)
    assert data["model_type"] == "xlm-roberta" and rest == {"num_labels": 4}
    # The constructor keeps what it does not know, as documented.
    assert xlm.XLMRobertaConfig(something="else").something == "else"
    kept = xlm.XLMConfig.from_dict({"asm": False}, asm=True, asm_cutoffs=[5], asm_div_value=2.0)
    assert kept.asm_cutoffs == [5]
    # An alias in a file does not win over the field that a caller overrides.
    assert xlm.XLMConfig.from_dict({"n_words": 50}, vocab_size=70).vocab_size == 70


def test_labels(tmp_path: Path) -> None:
    names = {0: "no", 1: "perhaps", 2: "yes"}
    with pytest.warns(UserWarning, match="num_labels=5 and id2label with 3 names disagree; id2label wins"):
        config = xlm.XLMRobertaConfig(num_labels=5, id2label=names)
    assert config.num_labels == 3 and config.label2id == {"no": 0, "perhaps": 1, "yes": 2}
    config.save_pretrained(tmp_path)
    load = xlm.XLMRobertaConfig.from_pretrained
    with pytest.raises(ConfigError, match="num_labels=5 and id2label with 3 names disagree"):
        load(tmp_path, num_labels=5, id2label=names)
    with pytest.raises(ConfigError, match="num_labels=5 and id2label with 3 names disagree"):
        xlm.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5, id2label=names)
    other = {"NO": 0, "YES": 1}
    for given in (
        {"label2id": other, "id2label": {0: "NO", 1: "YES"}},
        {"id2label": {0: "NO", 1: "YES"}, "label2id": other},
    ):
        assert load(tmp_path, **given).label2id == other
    assert load(tmp_path, id2label={0: "a"}).label2id == {"a": 0}
    assert load(tmp_path, num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert load(tmp_path, num_labels=3).id2label == names
    with pytest.raises(ConfigError, match="id2label=5: must map integers to names"):
        load(tmp_path, num_labels=3, id2label=5)


def test_nothing_is_lost_on_the_way_to_a_file_and_back(tmp_path: Path) -> None:
    config = xlm.XLMRobertaConfig(label2id={"bad": 0, "good": 1}, unheard_of=None)
    config.save_pretrained(tmp_path)
    back = xlm.XLMRobertaConfig.from_pretrained(tmp_path)
    assert back.label2id == {"bad": 0, "good": 1} and back.unheard_of is None
    back.name_or_path = ""
    assert back == config


def test_update_from_string() -> None:
    config = xlm.XLMConfig()
    config.update_from_string("n_heads=8,dropout=0.2,causal=true,summary_type=mean")
    assert (config.n_heads, config.dropout, config.causal, config.summary_type) == (8, 0.2, True, "mean")
    for text, message in [
        ("heads=8", "'heads=8': must be FIELD=VALUE"),
        ("dropout", "'dropout': must be"),
        ("n_heads=many", "n_heads='many': must be an integer"),
        ("causal=perhaps", "causal='perhaps': must be true or false"),
        ("pruned_heads=3", "pruned_heads='3': the field holds a dict"),
    ]:
        with pytest.raises(ConfigError, match=message):
            config.update_from_string(text)


@EACH
def test_a_sinusoidal_table_of_another_length_is_the_formula(framework: Any, tmp_path: Path) -> None:
    head = tiny.MODELS[0]
    tiny.model(head, sinusoidal_embeddings=True).save_pretrained(tmp_path)
    options = {"max_position_embeddings": 30, "ignore_mismatched_sizes": True}
    model = framework.load(head, tmp_path, **options)
    want = tiny.model(head, sinusoidal_embeddings=True, max_position_embeddings=30)
    have = framework.tensors(model)["position_embeddings.weight"]
    np.testing.assert_allclose(have, want.embeddings.position_embeddings.weight.numpy(), atol=1e-6)
