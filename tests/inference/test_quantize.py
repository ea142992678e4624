"""Folders with int8 weights: what is written, what opens it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import toytasks
import xlm
from xlm.checkpoints.files import open_checkpoint, save_safetensors
from xlm.cli import main
from xlm.errors import InputError
from xlm.inference import quantize as q

TEXTS = {
    "English": ["hello world", "where is the school", "a small house", "tomorrow we go home"],
    "Русский": ["Где школа?", "Я сегодня очень устал.", "Маленький дом.", "Завтра мы едем домой."],
}


@pytest.fixture(scope="module", params=["calibrated", "by row"])
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8")
    # Of every two texts one calibrates: with those that are measured elsewhere, the scales know their range.
    texts = {language: [text for text in some for _ in "12"] for language, some in TEXTS.items()}
    quality = q.quantize(tiny_model, out, texts, force=True, activations=request.param)
    assert [(row.language, row.texts) for row in quality] == [("English", 4), ("Русский", 4)]
    assert all(0.99 < row.cosine <= 1.0001 for row in quality)
    return out


def test_the_folder_opens_as_int8_and_answers_like_the_original_in_int8(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    q.quantize(tiny_model, folder, TEXTS, force=True, activations="by row")
    engine, original = xlm.load(folder), xlm.load(tiny_model, dtype="int8")
    assert engine.dtype == "int8"
    for one, other in zip(engine.encode(["hello", "Где?"]), original.encode(["hello", "Где?"]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert json.loads((folder / q.REPORT).read_text("utf-8"))[0]["language"] == "English"


def test_matrices_of_the_encoder_are_bytes_on_disk_and_floats_to_readers(folder: Path, tiny_model: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    name = "roberta.encoder.layer.0.output.dense.weight"
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        assert file.get_tensor(name).dtype == np.int8
        assert file.get_tensor(name + "_scale").dtype == np.float32
    restored = open_checkpoint(folder)
    assert name + "_scale" not in restored.entries
    wanted, scale = open_checkpoint(tiny_model)[name], np.abs(open_checkpoint(tiny_model)[name]).max(1) / 127
    assert (np.abs(restored[name] - wanted) <= scale[:, None] * 0.5001 + 1e-9).all()
    assert (folder / "model.safetensors").stat().st_size < (tiny_model / "model.safetensors").stat().st_size


def test_the_documented_classes_open_the_folder_widened(folder: Path) -> None:
    model = xlm.AutoModelForMaskedLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    ids = xlm.load(folder).ids(["hello"])[0]
    with torch.no_grad():
        states = model.roberta(torch.tensor([ids])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(xlm.load(folder).encode([ids])[0], states, atol=0.1)


@pytest.mark.parametrize("kind", ["calibrated", "by row"])
def test_activations_are_what_was_asked_for(kind: q.Kind, tiny_model: Path, tmp_path: Path) -> None:
    q.quantize(tiny_model, tmp_path / "out", TEXTS, force=True, activations=kind)
    assert xlm.AutoConfig.from_pretrained(tmp_path / "out").quantization_config["activations"] == kind
    fixed = open_checkpoint(tmp_path / "out").extras.get("activations", {})
    assert len(fixed) == (
        6 * xlm.AutoConfig.from_pretrained(tiny_model).num_hidden_layers if kind == "calibrated" else 0
    )
    exact, engine = xlm.load(tiny_model), xlm.load(tmp_path / "out")
    for one, other in zip(exact.encode(["hello", "Где дом?"]), engine.encode(["hello", "Где дом?"]), strict=True):
        cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosine.min() > 0.98


def test_what_calibrated_is_not_what_measures(tiny_model: Path, tmp_path: Path) -> None:
    assert q.halves({"en": ["a", "b", "c"], "sw": ["d"]}) == (["a", "c"], {"en": ["b"], "sw": ["d"]})
    alone = {"en": ["Hello world"], "fr": ["the capital of France"]}
    with pytest.raises(InputError, match="texts: 1 a language: calibrating needs 2 of one at least"):
        q.quantize(tiny_model, tmp_path / "c", alone, activations="calibrated")
    q.quantize(tiny_model, tmp_path / "r", alone, q.Bars(0, 0, 0))
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["quantization_config"]["activations"] == "by row" and not (tmp_path / "c").exists()


def test_calibrated_answers_do_not_depend_on_the_other_texts(folder: Path) -> None:
    engine = xlm.load(folder)
    alone = engine.encode(["hello"])[0]
    together = engine.encode(["where is the school", "hello", "Я сегодня очень устал.", "a"])[1]
    np.testing.assert_allclose(alone, together, atol=0.05)


def test_a_matrix_takes_over_the_scales_of_its_inputs_and_gives_them_back(tiny_model: Path, tmp_path: Path) -> None:
    q.quantize(tiny_model, tmp_path / "out", TEXTS, force=True, activations="calibrated")
    restored, original = open_checkpoint(tmp_path / "out"), open_checkpoint(tiny_model)
    assert restored.extras["activations"]
    for name, (scale, zero) in restored.extras["activations"].items():
        folded = original[name] * scale
        step = np.abs(folded).max(1, keepdims=True) / 127 / scale
        assert (np.abs(restored[name] - original[name]) <= 0.5001 * step + 1e-9).all()
        assert 0 <= zero <= 255


def test_outlying_channels_do_not_cost_the_others_their_precision() -> None:
    from xlm.backends.torch.calibration import Observer
    from xlm.backends.torch.ops import PLAIN

    torch.manual_seed(0)
    x, layer = torch.randn(64, 32), torch.nn.Linear(32, 16)
    x[:, 3] *= 300
    observer = Observer(PLAIN)
    observer.linear(layer, x)
    fixed = observer.by_channel((layer,), [layer.weight])
    folded = layer.weight * fixed.scale
    step = folded.abs().amax(1, keepdim=True) / 127
    rows = (x / fixed.scale).round().clamp(-128, 127)
    got = (rows @ (folded / step).round().T) * step.T + layer.bias
    wanted = layer(x)
    naive = ((x / (x.abs().max() / 127)).round() * (x.abs().max() / 127)) @ layer.weight.T + layer.bias
    quiet = torch.arange(32) != 3
    assert (got - wanted).norm() < 0.3 * ((x[:, quiet] @ layer.weight[:, quiet].T).norm())
    assert (got - wanted).norm() < 0.5 * (naive - wanted).norm()


def test_damaged_scales_of_activations_are_named(tmp_path: Path) -> None:
    good = {"w.weight": np.zeros((3, 2), np.int8), "w.weight_scale": np.ones(3, np.float32)}
    for extra, what in (
        ({"w.weight_input_scale": np.ones(2, np.float32)}, "is missing"),
        (
            {"w.weight_input_scale": np.ones(3, np.float32), "w.weight_input_zero": np.array([1], np.int32)},
            "one a column",
        ),
        ({"w.weight_input_scale": np.zeros(2, np.float32), "w.weight_input_zero": np.array([1], np.int32)}, "positive"),
    ):
        save_safetensors(tmp_path / "model.safetensors", good | extra)
        with pytest.raises(xlm.CheckpointError, match=what):
            open_checkpoint(tmp_path)


def test_what_falls_below_the_bars_is_not_written(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(xlm.QualityError, match=r"cosine \d\.\d+ in English \(bar 1\.1\).*nothing was written"):
        q.quantize(tiny_model, out, TEXTS, q.Bars(cosine=1.1))
    assert not out.exists()
    rows = [q.Quality("a", 9, 0.999, 0.5, 0.95), q.Quality("b", 9, 0.98, 0.9, 0.7)]
    assert q.misses(rows, q.Bars()) == [
        "cosine 0.9800 in b (bar 0.99)",
        "retrieval agreement 0.700 (bar 0.9)",
        "mask agreement 0.825 (bar 0.9)",
    ]
    assert q.misses([q.Quality("a", 9, float("nan"), 1.0, None)], q.Bars()) == ["cosine nan in a (bar 0.99)"]


def test_the_model_itself_is_no_place_to_write(tiny_model: Path) -> None:
    with pytest.raises(xlm.InputError, match="the model itself"):
        q.quantize(tiny_model, tiny_model, TEXTS)


def test_a_folder_that_holds_something_is_no_place_to_write(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "modules.json").write_text("[]")
    with pytest.raises(xlm.OutputError, match="is there already, and not an empty folder"):
        q.quantize(tiny_model, tmp_path / "out", TEXTS, force=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "modules.json"]


def test_a_failure_on_the_way_leaves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(q, "compare", full)
    with pytest.raises(OSError, match="No space left"):
        q.quantize(tiny_model, tmp_path / "out", TEXTS, activations="by row")
    assert list(tmp_path.iterdir()) == []


def test_scales_that_do_not_fit_are_named(tmp_path: Path) -> None:
    bad = {"w.weight": np.zeros((3, 2), np.int8), "w.weight_scale": np.ones(2, np.float32)}
    save_safetensors(tmp_path / "model.safetensors", bad)
    with pytest.raises(xlm.CheckpointError, match=r"w\.weight_scale of shape \(2,\).*needs one a row"):
        open_checkpoint(tmp_path)


def test_a_model_loaded_for_inference_is_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    model = xlm.AutoModelForMaskedLM.from_pretrained(tiny_model, quantization="int8")
    if any(p.numel() == 0 for p in model.parameters()):
        with pytest.raises(xlm.InputError, match="loaded for inference"):
            model.save_pretrained(tmp_path)


def test_the_command_prints_a_line_a_language(tiny_model: Path, tmp_path: Path, capsys) -> None:
    files = []
    for language, lines in TEXTS.items():
        files += ["--texts", str(tmp_path / f"{language}.txt")]
        (tmp_path / f"{language}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    out = tmp_path / "out"
    assert main(["quantize", str(tiny_model), str(out), "--force", "--json", *files]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["language"] for row in printed] == list(TEXTS)
    assert xlm.load(out).dtype == "int8"
    (tmp_path / "empty.txt").write_text("\n", "utf-8")
    assert main(["quantize", str(tiny_model), str(out), "--texts", str(tmp_path / "empty.txt")]) == 1
    assert "empty.txt: has no text" in capsys.readouterr().err


def test_int8_folders_are_not_widened_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from xlm.inference import loading

    folder = toytasks.checkpoint(tmp_path / "int8")
    config = xlm.AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": loading.METHOD}
    config.save_pretrained(folder)
    monkeypatch.setattr(loading, "find_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def stop(*_: object, **options: object) -> None:
        raise KeyError(str(options["dtype"]))

    monkeypatch.setattr(loading, "documented_model", stop)
    with pytest.raises(KeyError, match="float32"):
        xlm.load(folder)
    assert "holds int8 weights, which are for the CPU: on cuda they are widened to float32" in caplog.text
    caplog.clear()
    with pytest.raises(KeyError, match="bfloat16"):
        xlm.load(folder, dtype="bfloat16")
    assert not caplog.records
