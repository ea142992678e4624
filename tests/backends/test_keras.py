"""The TF classes as Keras models: calls, fit, graphs, SavedModels, half precision, files, bad input."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf
import torch

import frameworks
import tiny
import xlm
from contracts.test_bad_input import FAULTS
from xlm.backends.keras.models import MODELS
from xlm.backends.keras.ops import softmax

KERAS = frameworks.Keras()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NAMED = {head.name: head for head in tiny.HEADS}
R, XLM, XL = tiny.MODELS[1], tiny.MODELS[0], tiny.MODELS[2]
CLASSIFY, TAG = NAMED["XLMRobertaForSequenceClassification"], NAMED["XLMRobertaXLForTokenClassification"]
IDS = tiny.ids(R).numpy()
MASK = np.ones_like(IDS)
MASK[2, 4:] = 0


def slow_but(quick: Any, rest: list[Any]) -> list[Any]:
    """What a test takes: one value always, the others in the slow run, since each traces graphs of its own."""
    return [quick, *(pytest.param(value, marks=pytest.mark.slow) for value in rest)]


def make(head: tiny.Head, seed: int = 0, dtype: Any = None, **more: Any) -> Any:
    keras.utils.set_random_seed(seed)
    return MODELS["TF" + head.name](tiny.config(head, **more), **({} if dtype is None else {"dtype": dtype}))


def close(one: Any, two: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(two), rtol=tolerance, atol=tolerance)


def test_keywords_a_mapping_and_a_list_are_one() -> None:
    model = make(R)
    want = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    tokenizer_like = xlm.BatchEncoding({"input_ids": IDS, "attention_mask": MASK})
    for first in ({"input_ids": IDS, "attention_mask": MASK}, [IDS, MASK], (IDS, tf.constant(MASK)), tokenizer_like):
        close(model(first).last_hidden_state, want, 0)
    close(model(IDS, MASK)[0], want, 0)
    close(model.call({"input_ids": tf.constant(IDS)}, attention_mask=tf.constant(MASK))[0], want, 0)
    close(model(IDS.tolist(), MASK.tolist(), return_dict=False)[0], want, 0)


def test_dropout_works_in_training_alone() -> None:
    model = make(R, hidden_dropout_prob=0.5)
    close(model(IDS)[0], model(IDS, training=False)[0], 0)
    assert np.abs(model(IDS, training=True)[0] - model(IDS)[0]).max() > 0.1


@pytest.mark.parametrize("given", slow_but("beside them", ["among the inputs", "as a mapping", "to a Keras loss"]))
def test_fit_takes_labels_wherever_they_stand(given: str) -> None:
    model, labels = make(CLASSIFY), np.array([2, 0, 1])
    inputs: dict[str, Any] = {"input_ids": IDS, "attention_mask": MASK}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if "Keras" in given else None
    y: Any = {"as a mapping": {"labels": labels}, "among the inputs": None}.get(given, labels)
    if y is None:
        inputs["labels"] = labels
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss=loss, metrics=["accuracy"])
    first = float(tf.reduce_mean(model(IDS, MASK, labels=labels).loss))
    history = model.fit(inputs, y, epochs=4, batch_size=3, verbose=0).history
    assert history["loss"][0] == pytest.approx(first, rel=1e-4)
    assert history["loss"][-1] < first / 2
    assert history["accuracy"][-1] == 1.0
    if given == "beside them":
        assert model.evaluate(inputs, y, verbose=0)[0] < first / 2
        predicted = model.predict(inputs, verbose=0, batch_size=2)
        assert isinstance(predicted, xlm.SequenceClassifierOutput)
        close(predicted.logits, model(inputs).logits)


def test_a_step_of_fit_is_a_step_of_gradient_descent() -> None:
    model, twin = make(TAG), make(TAG)
    labels = tiny.labels(TAG, torch.from_numpy(IDS))["labels"].numpy()
    inputs = {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    _, gradients = KERAS.gradients(twin, inputs)
    before = KERAS.tensors(model)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.fit(inputs, batch_size=3, verbose=0)
    for name, tensor in KERAS.tensors(model).items():
        close(tensor, before[name] - 0.1 * gradients[name], 1e-5)


@pytest.mark.slow
def test_fit_takes_two_answers_and_a_model_made_of_layers() -> None:
    model = make(NAMED["XLMRobertaForQuestionAnswering"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    places = np.array([1, 2, 3])
    model.compile(optimizer="adam")
    own = model.fit(IDS, {"start_positions": places, "end_positions": places}, verbose=0).history["loss"][0]
    model = make(NAMED["XLMRobertaForQuestionAnswering"])
    model.compile(optimizer="adam", loss={"start_logits": loss, "end_logits": loss})
    both = model.fit(IDS, {"start_logits": places, "end_logits": places}, verbose=0).history["loss"][0]
    assert both == pytest.approx(2 * own, rel=1e-4)
    base, words, mask = make(R), keras.Input((7,), dtype="int32"), keras.Input((7,), dtype="int32")
    logits = keras.layers.Dense(2)(base(words, attention_mask=mask).last_hidden_state[:, 0])
    whole = keras.Model([words, mask], logits)
    whole.compile(optimizer="adam", loss=loss)
    before = whole.evaluate([IDS, MASK], np.array([0, 1, 1]), verbose=0)
    whole.fit([IDS, MASK], np.array([0, 1, 1]), epochs=10, verbose=0)
    assert whole.evaluate([IDS, MASK], np.array([0, 1, 1]), verbose=0) < before


@pytest.mark.parametrize("head", [XLM, R, XL], ids=str)
def test_a_graph_of_unknown_sizes_computes_the_same(head: tiny.Head) -> None:
    model = make(head)
    unknown = [tf.TensorSpec((None, None), tf.int32)] * 2
    graph = tf.function(lambda i, m: model(i, attention_mask=m, output_hidden_states=True), input_signature=unknown)
    for ids, mask in ((IDS, MASK), (IDS[:1, :3], MASK[:1, :3])):
        output = graph(tf.constant(ids, tf.int32), tf.constant(mask, tf.int32))
        want = model(ids, mask, output_hidden_states=True)
        assert type(output) is type(want)
        for one, two in zip(output.hidden_states, want.hidden_states, strict=True):
            close(one, two)
    close(tf.function(lambda i: model(i)[0], jit_compile=True)(tf.constant(IDS, tf.int32)), model(IDS)[0])


@pytest.mark.parametrize(
    "head",
    slow_but("XLMRobertaXLForMultipleChoice", ["XLMWithLMHeadModel", "XLMRobertaModel", "XLMForTokenClassification"]),
)
def test_a_saved_model_serves_without_the_class(head: str, tmp_path: Path) -> None:
    model, ids = make(NAMED[head]), tiny.ids(NAMED[head]).numpy().astype(np.int32)
    model.save_pretrained(tmp_path, saved_model=True, version=3)
    serve = tf.saved_model.load(str(tmp_path / "saved_model" / "3")).signatures["serving_default"]
    for given in (ids, ids[:1, ..., :4]):
        output = serve(input_ids=tf.constant(given), attention_mask=tf.ones_like(given))
        want = model(given, np.ones_like(given))
        assert output.keys() == {name for name in want if name != "past_key_values"}
        for name in output:
            close(output[name], want[name], 1e-5)


@pytest.mark.slow
def test_a_saved_model_of_other_inputs(tmp_path: Path) -> None:
    model = make(XLM)
    spec = {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in ("input_ids", "langs")}
    model.export(tmp_path / "m", input_signature=spec, output_hidden_states=True)
    serve = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    output = serve(input_ids=tf.constant(IDS, tf.int32), langs=tf.constant(IDS % 2, tf.int32))
    want = model(IDS, langs=IDS % 2, output_hidden_states=True)
    close(output["hidden_states"], tf.stack(want.hidden_states), 1e-5)
    with pytest.raises(xlm.InputError, match="pixel_values: not among the arguments input_ids"):
        model.export(tmp_path / "n", input_signature={"pixel_values": spec["langs"]})


@pytest.mark.parametrize("policy", slow_but("mixed_bfloat16", ["mixed_float16", "bfloat16"]))
def test_half_precision(policy: str) -> None:
    full, half = make(CLASSIFY), make(CLASSIFY, dtype=policy)
    for name, weight in half.named_weights().items():
        weight.write(full.named_weights()[name].read())
    output = half(IDS, attention_mask=MASK, output_hidden_states=True, labels=np.array([0, 1, 2]))
    assert output.logits.dtype == tf.as_dtype(policy.removeprefix("mixed_"))
    assert output.loss.dtype == tf.float32
    kept = "float32" if policy.startswith("mixed") else policy
    assert {w.variable.dtype for w in half.named_weights().values()} == {kept}
    close(tf.cast(output.logits, tf.float32), full(IDS, attention_mask=MASK).logits, 0.05)
    scores = tf.constant([[0.0, 1e-3] * 2048], tf.as_dtype(policy.removeprefix("mixed_")))
    exact = tf.nn.softmax(tf.cast(scores, tf.float32))  # rounded once, at the end
    close(tf.cast(softmax(scores), tf.float32), tf.cast(tf.cast(exact, scores.dtype), tf.float32), 0)


@pytest.mark.parametrize("policy", slow_but("mixed_float16", ["mixed_bfloat16"]))
def test_half_precision_of_rows_that_see_nothing(policy: str) -> None:
    """All weights are equal, however low the scores; in float16 the lowest bias and a low score made NaN."""
    model, mask = make(R, dtype=policy), np.array([[0] * 7, [1] * 7, [1] * 7])
    for name, weight in model.named_weights().items():
        if name.endswith(("self.query.bias", "self.key.bias")):
            weight.write(np.full(weight.shape, 5.0 if "query" in name else -5.0, np.float32))
    output = model(IDS, attention_mask=mask, output_attentions=True)
    assert np.isfinite(np.asarray(output.last_hidden_state, np.float32)).all()
    close(np.asarray(output.attentions[0][0], np.float32), np.full((2, 7, 7), 1 / 7), 1e-3)


@pytest.mark.parametrize("name", slow_but("XLMWithLMHeadModel", [n[2:] for n in MODELS if "WithLM" not in n]))
def test_tf_model_h5_keeps_every_tensor(name: str, tmp_path: Path) -> None:
    head = NAMED[name]
    model = make(head, **({"tie_word_embeddings": False} if head.kind == "masked" else {}))
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / "model.safetensors").exists()
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    other = head.cls.from_pretrained(tmp_path)
    parameters = dict(other.named_parameters())
    for name, weight in model.named_weights().items():
        np.testing.assert_array_equal(again.named_weights()[name].read(), weight.read(), err_msg=name)
        np.testing.assert_array_equal(parameters[name].detach().numpy(), weight.read(), err_msg=name)


def test_the_layers_of_a_deep_h5_are_listed_in_parts(tmp_path: Path) -> None:
    import h5py

    from xlm.checkpoints.foreign.h5_out import save_h5

    names = [f"roberta.encoder.layer.{i}.attention.self.query.bias" for i in range(1500)]
    save_h5(tmp_path / "tf_model.h5", make(R).family, ((name, np.zeros(1, np.float32)) for name in names))
    with h5py.File(tmp_path / "tf_model.h5") as file:
        parts = [file["roberta"].attrs[key] for key in sorted(file["roberta"].attrs)]
    assert len(parts) > 1 and sum(map(len, parts)) == 1500


@pytest.mark.slow
def test_keras_own_files(tmp_path: Path) -> None:
    model = make(CLASSIFY)
    model.save_weights(tmp_path / "m.weights.h5")
    other = make(CLASSIFY, seed=1)
    other.load_weights(tmp_path / "m.weights.h5")
    close(other(IDS).logits, model(IDS).logits, 0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", custom_objects={type(model).__name__: type(model)})
    close(loaded(IDS).logits, model(IDS).logits, 0)


def test_pruned_heads_and_resized_tables_follow_into_files(tmp_path: Path) -> None:
    head = NAMED["XLMRobertaForMaskedLM"]
    model = make(head)
    whole = model(IDS, head_mask=np.array([[1.0, 0.0], [1.0, 1.0]])).logits
    model.prune_heads({0: [1]})
    close(model(IDS).logits, whole, 1e-5)
    model.resize_token_embeddings(50)
    close(model(IDS).logits[..., : tiny.VOCAB], whole, 1e-5)
    assert model(IDS + 8).logits.shape[-1] == 50
    model.save_pretrained(tmp_path)
    close(head.cls.from_pretrained(tmp_path)(torch.from_numpy(IDS)).logits.detach(), model(IDS).logits, 1e-5)
    close(type(model).from_pretrained(tmp_path)(IDS).logits, model(IDS).logits, 0)
    with pytest.raises(xlm.InputError, match="layer 7: the model has layers 0 to 1"):
        model.prune_heads({7: [0]})


@pytest.mark.parametrize("head", ["XLMRobertaForCausalLM", "XLMWithLMHeadModel"])
@pytest.mark.parametrize(
    "options",
    slow_but(
        {},
        [
            {"num_beams": 3},
            {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0, "eos_token_id": list(range(20, 40))},
            {"repetition_penalty": 1.5},
        ],
    ),
    ids=str,
)
def test_generation_is_pytorchs(head: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.model(NAMED[head])
    model.save_pretrained(tmp_path)
    prompt = tiny.ids(NAMED[head], batch=2, length=4)
    other = KERAS.load(NAMED[head], tmp_path)
    want = model.generate(prompt, max_length=12, do_sample=False, **options)
    np.testing.assert_array_equal(other.generate(prompt.numpy(), max_length=12, **options), want.numpy())
    drawn = [other.generate(prompt.numpy(), max_length=9, do_sample=True, seed=3, top_p=0.9).numpy() for _ in "ab"]
    np.testing.assert_array_equal(*drawn)


whole = functools.cache(make)


def fault(message: str) -> str:
    """What PyTorch's message is here: types go by their own names."""
    return message.replace("torch.", "").replace("torch\\.", "")


@pytest.mark.parametrize(
    ("head", "inputs", "message"),
    [pytest.param(*case[1:], id=case[0]) for case in FAULTS if "TF" + case[1].name in MODELS],
)
def test_bad_input_is_named(head: tiny.Head, inputs: dict[str, Any], message: str) -> None:
    model = whole(head)
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    with pytest.raises(xlm.XLMError) as caught:
        model(**arrays)
    assert re.search(fault(message), str(caught.value)), str(caught.value)


def test_bad_calls_are_named() -> None:
    model = make(R)
    with pytest.raises(xlm.InputError, match="pixel_values: not among the arguments input_ids, attention_mask"):
        model({"pixel_values": IDS})
    with pytest.raises(xlm.InputError, match="attention_mask: given twice"):
        model([IDS, MASK], attention_mask=MASK)
    with pytest.raises(xlm.InputError, match="15 inputs in order"):
        model([IDS] * 15)
    with pytest.raises(xlm.InputError, match="no loss in compile"):
        made = make(CLASSIFY)
        made.compile(optimizer="adam")
        made.fit({"input_ids": IDS}, verbose=0)
    with pytest.raises(xlm.ConfigError, match="dtype='int8': must be a floating type"):
        type(model).from_pretrained("nowhere", config=model.config, dtype="int8")


def test_adapters_and_int8_are_written_as_what_they_compute(tmp_path: Path) -> None:
    model = make(CLASSIFY)
    attention = model.roberta.encoder.layer[0].attention
    query, key = attention.core.query, attention.core.key
    query.enable_lora(2)
    query.lora_kernel_b.assign(keras.random.normal(query.lora_kernel_b.shape, seed=1))
    model.save_pretrained(tmp_path / "lora")
    want = model(IDS).logits
    close(type(model).from_pretrained(tmp_path / "lora")(IDS).logits, want, 1e-5)
    for layer in (query, key):  # adapters over int8, and int8 alone
        layer.quantize("int8")
    model.save_pretrained(tmp_path / "int8")
    again = type(model).from_pretrained(tmp_path / "int8")
    close(again(IDS).logits, want, 0.02)
    kernel = np.asarray(key._kernel.value, np.float32) / np.asarray(key.kernel_scale.value)
    close(again.roberta.encoder.layer[0].attention.core.key.kernel, kernel, 0)
    with pytest.raises(xlm.InputError, match="key: is quantized; give it weights before"):
        weight = model.named_weights()["roberta.encoder.layer.0.attention.self.key.weight"]
        weight.write(weight.read())
    with pytest.raises(xlm.InputError, match="query: is quantized; prune heads before"):
        attention.prune_heads({1})
    attention.core.value.quantize("int4")
    with pytest.raises(xlm.InputError, match="value: is quantized to int4"):
        model.save_pretrained(tmp_path / "int4")


def test_a_mask_of_unknown_size_may_name_the_past() -> None:
    model = make(NAMED["XLMRobertaForCausalLM"])
    past = model(IDS[:, :4], use_cache=True).past_key_values
    unknown = tf.TensorSpec((None, None), tf.int32)
    step = tf.function(
        lambda ids, mask, past: model(ids, attention_mask=mask, past_key_values=past).logits,
        input_signature=[unknown, unknown, keras.tree.map_structure(lambda t: tf.TensorSpec((None, 2, None, 8)), past)],
    )
    ids, whole = tf.constant(IDS[:, 4:], tf.int32), np.ones_like(IDS, np.int32)
    whole[:, :2] = 0
    for mask in (whole, whole[:, 4:]):
        close(step(ids, tf.constant(mask), past), model(ids, attention_mask=mask, past_key_values=past).logits)


def test_a_model_without_a_pooler_is_built_again_without_one() -> None:
    model = MODELS["TFXLMRobertaModel"](tiny.config(R), add_pooling_layer=False)
    assert type(model).from_config(model.get_config()).pooler is None


def test_xlm_continues_padded_prompts_as_it_does_alone(tmp_path: Path) -> None:
    head = NAMED["XLMWithLMHeadModel"]
    model = tiny.model(head, mask_token_id=5, lang_id=1)
    model.save_pretrained(tmp_path)
    other = KERAS.load(head, tmp_path)
    ids = tiny.ids(head, batch=2, length=5)
    ids[1, :2], mask = tiny.pad_id("xlm"), torch.ones_like(ids)
    mask[1, :2] = 0
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": 99}
    both, alone = model.generate(ids, attention_mask=mask, **options), model.generate(ids[1:, 2:], **options)
    assert both[1, 2:].tolist() == alone[0].tolist()
    np.testing.assert_array_equal(other.generate(ids.numpy(), attention_mask=mask.numpy(), **options), both.numpy())
    causal = {"mask_token_id": 5, "causal": True}
    for refusing in (tiny.model(head, **causal), make(head, **causal)):
        given = (ids, mask) if isinstance(refusing, torch.nn.Module) else (ids.numpy(), mask.numpy())
        with pytest.raises(xlm.InputError, match="attention_mask: a causal model attends to padding too"):
            refusing.generate(given[0], attention_mask=given[1], **options)


def test_an_xlm_decoder_continues_text_and_options_are_known() -> None:
    model = make(NAMED["XLMWithLMHeadModel"], mask_token_id=5, is_decoder=True)
    assert model.generate(IDS[:, :3], max_new_tokens=2).shape == (3, 5)
    for wrong, message in (
        ({"num_beam": 4}, "num_beam=4: generate knows no such argument; did you mean num_beams"),
        ({"num_beams": 2, "early_stopping": "sometimes"}, "early_stopping='sometimes': must be False, True or 'never'"),
    ):
        with pytest.raises(xlm.InputError, match=message):
            model.generate(IDS[:, :3], max_new_tokens=2, **wrong)


def test_weights_of_examples() -> None:
    model, labels, weights = make(CLASSIFY), np.array([2, 0, 1]), np.array([0.0, 3.0, 1.0])
    model.compile(optimizer="sgd")
    want = np.mean(np.asarray(model(IDS, labels=labels).loss) * weights)
    assert model.evaluate(IDS, labels, sample_weight=weights, verbose=0) == pytest.approx(want, rel=1e-5)
    tagger, tags = make(TAG), np.ones_like(IDS)
    tagger.compile(optimizer="sgd")
    with pytest.raises(xlm.InputError, match="sample_weight: the head's own loss is one mean over all tokens"):
        tagger.evaluate(IDS, tags, sample_weight=weights, verbose=0)


REPLICAS = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tiny, xlm
head = next(h for h in tiny.HEADS if h.name == "XLMRobertaForSequenceClassification")
ids, labels, seen = tiny.ids(head, batch=4).numpy(), np.array([2, 0, 1, 1]), []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = xlm.TFXLMRobertaForSequenceClassification(tiny.config(head))
        model.compile(keras.optimizers.SGD(0.5))
    loss = model.fit(ids, labels, batch_size=4, epochs=2, verbose=0, shuffle=False).history["loss"]
    seen.append((loss, model.classifier.out_proj.kernel.numpy()))
for one, two in zip(*seen):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_two_replicas_are_one() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(tiny.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]


def test_files_of_an_earlier_save_do_not_stay_in_force(tmp_path: Path) -> None:
    old, new = make(R), make(R, seed=1)
    for size in ("5GB", "10KB"):
        old.save_pretrained(tmp_path, max_shard_size=size)
        new.save_pretrained(tmp_path, safe_serialization=False)
        assert not list(tmp_path.glob("*.safetensors*"))
    close(type(new).from_pretrained(tmp_path)(IDS)[0], new(IDS)[0], 0)


def test_an_encoder_becomes_a_decoder_that_looks_across(tmp_path: Path) -> None:
    make(R).save_pretrained(tmp_path)
    name, decoder = (
        "encoder.layer.0.crossattention.self.query.weight",
        {"is_decoder": True, "add_cross_attention": True},
    )
    model, info = KERAS.load(NAMED["XLMRobertaForCausalLM"], tmp_path, **decoder, output_loading_info=True)
    assert "roberta." + name in info["missing_keys"] and model.named_weights()["roberta." + name].read().any()
    with pytest.raises(xlm.ArgumentError, match="num_labels=5: neither an option of from_pretrained nor an argument"):
        type(model).from_pretrained(tmp_path, config=model.config, num_labels=5, colour="red")


def test_bfloat16_that_is_not_finite_is_told(tmp_path: Path) -> None:
    model = make(R, dtype="bfloat16")
    model.encoder.layer[1].out.dense.bias.assign(np.full(tiny.HIDDEN, np.nan))
    model.save_pretrained(tmp_path)
    with pytest.raises(xlm.CheckpointError, match=r"encoder.layer.1.output.dense.bias"):
        type(model).from_pretrained(tmp_path, strict_finite=True)
