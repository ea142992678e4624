"""Record what the TensorFlow classes of transformers 4.37.2 answer: XLM-R's seven and XLM's six.

    python3.11 -m venv /tmp/ref-tf
    /tmp/ref-tf/bin/pip install transformers==4.37.2 tensorflow-cpu==2.15.1 'numpy<2'
    /tmp/ref-tf/bin/python tests/goldens/tf/make_goldens.py

Writes ``manifest.json`` (cases with their inputs, names of the outputs in order), ``outputs.npz`` and two small
``tf_model.h5`` files. Weights are those of ``tests/goldens/layout.py``: functions of a tensor's PyTorch name and shape.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from layout import flatten, normal, save, value, weight  # noqa: E402

REFERENCE = "4.37.2"
B, S, VOCAB, HIDDEN = 2, 6, 37, 16
CONFIGS = {
    "XLMRoberta": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 14,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "XLM": {
        "vocab_size": VOCAB,
        "emb_dim": HIDDEN,
        "n_layers": 2,
        "n_heads": 2,
        "n_langs": 3,
        "max_position_embeddings": 14,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "summary_first_dropout": 0.0,
        "initializer_range": 0.02,  # the reference's multiple choice fails without this key of another family
    },
}
IDS = {"int": [[5, 7, 9, 11, 30, 4], [8, 36, 4, 3, 1, 1]]}
PADS = {"int": [[5, 7, 9, 11, 30, 4], [8, 36, 4, 3, 2, 2]]}  # XLM's padding
MASK = {"int": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]}
TYPES = {"int": [[0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0]]}
LANGS = {"int": [[0, 0, 0, 2, 2, 2], [1, 1, 1, 1, 2, 0]]}
CHOICES = {"int": (np.arange(B * 3 * S).reshape(B, 3, S) * 7 % 33 + 4).tolist()}
WORDS = {"int": [[-100, 7, -100, 36, 0, -100], [5, -100, -100, -100, 12, 4]]}
TAGS = {"int": [[0, 4, -100, 3, 2, 1], [1, -100, 2, 3, 4, 0]]}
SPANS = {"start_positions": {"int": [1, 2]}, "end_positions": {"int": [3, 2]}}
ALL = {"output_hidden_states": True, "output_attentions": True}
SOURCE = {
    "encoder_hidden_states": {"normal": ["source", [B, 4, HIDDEN]]},
    "encoder_attention_mask": {"int": [[1, 1, 1, 1], [1, 1, 0, 0]]},
}
SEEN = {"input_ids": IDS, "attention_mask": MASK}
STEP = {"input_ids": {"int": [[11], [4]]}, "past": True}
R, X = "TFXLMRoberta", "TFXLM"

# name -> (class, config options, calls)
CASES: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "model": (R + "Model", {}, [{**SEEN, "token_type_ids": TYPES, **ALL}]),
    "model-tuple": (R + "Model", {}, [{"input_ids": IDS, "return_dict": False, **ALL}]),
    "model-list": (R + "Model", {}, [{"list": [IDS, MASK, TYPES]}]),
    "model-positions": (R + "Model", {}, [{"input_ids": IDS, "position_ids": {"int": [[9, 8, 7, 6, 5, 4]] * B}}]),
    "model-embeds": (R + "Model", {}, [{"inputs_embeds": {"normal": ["embeds", [B, S, HIDDEN]]}}]),
    "decoder": (R + "Model", {"is_decoder": True}, [{"input_ids": IDS, "attention_mask": MASK}]),
    "cross": (R + "Model", {"is_decoder": True, "add_cross_attention": True}, [{**SEEN, **SOURCE, **ALL}]),
    "steps": (R + "ForCausalLM", {"is_decoder": True}, [{"input_ids": IDS}, STEP, STEP]),
    "causal": (R + "ForCausalLM", {"is_decoder": True}, [{**SEEN, "labels": WORDS, "use_cache": False}]),
    "masked": (R + "ForMaskedLM", {}, [{**SEEN, "labels": WORDS, **ALL}]),
    "classify": (R + "ForSequenceClassification", {"num_labels": 3}, [{**SEEN, "labels": {"int": [2, 0]}}]),
    "regress": (R + "ForSequenceClassification", {"num_labels": 1}, [{**SEEN, "labels": {"float": [0.5, -1.25]}}]),
    "tag": (R + "ForTokenClassification", {"num_labels": 5}, [{**SEEN, "labels": TAGS}]),
    "tag-legacy": (R + "ForTokenClassification", {"num_labels": 5, "tf_legacy_loss": True}, [{**SEEN, "labels": TAGS}]),
    "answer": (R + "ForQuestionAnswering", {}, [{**SEEN, **SPANS}]),
    "answer-tuple": (R + "ForQuestionAnswering", {}, [{**SEEN, "return_dict": False}]),
    "choose": (R + "ForMultipleChoice", {}, [{"input_ids": CHOICES, "labels": {"int": [2, 0]}}]),
    "xlm-model": (X + "Model", {}, [{"input_ids": PADS, "attention_mask": MASK, "langs": LANGS, **ALL}]),
    "xlm-model-tuple": (X + "Model", {}, [{"input_ids": IDS, "return_dict": False, **ALL}]),
    "xlm-lengths": (X + "Model", {}, [{"input_ids": IDS, "lengths": {"int": [6, 3]}, "langs": LANGS}]),
    "xlm-counted": (X + "Model", {}, [{"input_ids": PADS}]),
    "xlm-types": (X + "Model", {"gelu_activation": False}, [{"input_ids": IDS, "token_type_ids": TYPES}]),
    "xlm-words": (X + "WithLMHeadModel", {}, [{"input_ids": PADS, "langs": LANGS, **ALL}]),
    "xlm-classify": (X + "ForSequenceClassification", {"num_labels": 3}, [{**SEEN, "labels": {"int": [2, 0]}}]),
    "xlm-tag": (X + "ForTokenClassification", {"num_labels": 5}, [{**SEEN, "labels": TAGS}]),
    "xlm-answer": (X + "ForQuestionAnsweringSimple", {}, [{**SEEN, **SPANS}]),
    "xlm-choose": (X + "ForMultipleChoice", {"num_labels": 1}, [{"input_ids": CHOICES, "labels": {"int": [2, 0]}}]),
}
FILES = {"xlm-roberta.h5": "masked", "xlm.h5": "xlm-words"}
LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}


def fill(model: Any) -> None:
    """Give a reference model the recorded weights."""
    for variable in model.weights:
        *path, leaf = variable.name.removesuffix(":0").replace("_._", ".").split("/")[1:]
        kernel = leaf == "kernel"
        shape = tuple(variable.shape)[::-1] if kernel else tuple(variable.shape)
        values = weight(".".join([*path, LEAVES.get(leaf, leaf)]).replace("/", "."), shape)
        variable.assign(values.T if kernel else values)


def main() -> None:
    """Record all cases and say how large the result is."""
    import tensorflow as tf
    import transformers

    assert transformers.__version__ == REFERENCE, transformers.__version__
    arrays: dict[str, np.ndarray] = {}
    written: dict[str, Any] = {}
    for name, (head, options, calls) in CASES.items():
        cls = getattr(transformers, head)
        config = cls.config_class(**{**CONFIGS["XLMRoberta" if "Roberta" in head else "XLM"], **options})
        model = cls(config)
        model(value(CHOICES if "Choice" in head else IDS, array=np.array))
        fill(model)
        outputs, past = [], None
        for number, call in enumerate(calls):
            inputs = {key: value(item, array=tf.constant) for key, item in call.items() if key not in ("past", "list")}
            given = [[value(item, array=tf.constant) for item in call["list"]]] if "list" in call else []
            if "inputs_embeds" in call:
                given = [None]  # the reference wants its first argument said
            if "past" in call:
                inputs["past_key_values"] = past
            output = model(*given, **inputs)
            past = output.get("past_key_values") if isinstance(output, dict) else None
            found = [(p, leaf) for p, leaf in flatten(output) if not p.startswith("past_key_values")]
            outputs.append([path for path, _ in found])
            arrays.update({f"{name}/{number}/{p}": np.asarray(leaf) for p, leaf in found if leaf is not None})
        written[name] = {"class": head, "config": config.to_diff_dict(), "calls": calls, "outputs": outputs}
        for file, of in FILES.items():
            if of == name:
                model.save_weights(str(FOLDER / file))
    save(FOLDER / "outputs.npz", arrays)
    manifest = {"reference": f"transformers {REFERENCE}", "check": normal("check", (4,)).tolist(), "cases": written}
    text = json.dumps(manifest, separators=(",", ":")).replace('},"', '},\n"')
    (FOLDER / "manifest.json").write_text(text + "\n")
    print(
        len(written), "cases,", {path.name: path.stat().st_size for path in sorted(FOLDER.iterdir()) if path.is_file()}
    )


if __name__ == "__main__":
    main()
