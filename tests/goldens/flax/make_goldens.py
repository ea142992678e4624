"""Record what the Flax classes of transformers 4.37.2 answer; only XLM-R ever had any.

    python3.11 -m venv /tmp/ref-flax
    /tmp/ref-flax/bin/pip install transformers==4.37.2 jax==0.4.20 jaxlib==0.4.20 flax==0.7.5 'numpy<2' 'scipy<1.12' \
        optax==0.1.7 chex==0.1.84 orbax-checkpoint==0.4.4
    /tmp/ref-flax/bin/python tests/goldens/flax/make_goldens.py

Writes ``manifest.json`` (cases with their inputs, names of the outputs in order) and ``outputs.npz``. Weights are those
of ``tests/goldens/layout.py``: functions of a tensor's PyTorch name and shape.
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
CONFIG = {
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
}
IDS = {"int": [[5, 7, 9, 11, 30, 2], [8, 36, 4, 2, 1, 1]]}
MASK = {"int": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]}
TYPES = {"int": [[0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0]]}
CHOICES = {"int": (np.arange(B * 3 * S).reshape(B, 3, S) * 7 % 33 + 4).tolist()}
ALL = {"output_hidden_states": True, "output_attentions": True}
SOURCE = {
    "encoder_hidden_states": {"normal": ["source", [B, 4, HIDDEN]]},
    "encoder_attention_mask": {"int": [[1, 1, 1, 1], [1, 1, 0, 0]]},
}
DECODER = {"is_decoder": True, "add_cross_attention": True}

# name -> (class, config options, constructor options, calls)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "model": ("Model", {}, {}, [{"input_ids": IDS, "attention_mask": MASK, "token_type_ids": TYPES, **ALL}]),
    "model-tuple": ("Model", {}, {}, [{"input_ids": IDS, "return_dict": False, **ALL}]),
    "model-positions": ("Model", {}, {}, [{"input_ids": IDS, "position_ids": {"int": [[9, 8, 7, 6, 5, 4]] * B}}]),
    "model-heads": ("Model", {}, {}, [{"input_ids": IDS, "head_mask": {"int": [[1, 0], [0, 1]]}}]),
    "model-no-pooler": ("Model", {}, {"add_pooling_layer": False}, [{"input_ids": IDS, "return_dict": False}]),
    "model-relu": ("Model", {"hidden_act": "relu"}, {}, [{"input_ids": IDS}]),
    "model-config": ("Model", {"output_attentions": True, "return_dict": False}, {}, [{"input_ids": IDS}]),
    "decoder": ("Model", {"is_decoder": True}, {}, [{"input_ids": IDS, "attention_mask": MASK}]),
    "cross": ("Model", DECODER, {}, [{"input_ids": IDS, "attention_mask": MASK, **SOURCE, **ALL}]),
    "causal": ("ForCausalLM", {"is_decoder": True}, {}, [{"input_ids": IDS, "attention_mask": MASK, **ALL}]),
    "causal-tuple": ("ForCausalLM", {"is_decoder": True}, {}, [{"input_ids": IDS, "return_dict": False, **ALL}]),
    "cache": (
        "ForCausalLM",
        DECODER,
        {},
        [
            {
                "input_ids": {"int": [[5, 7, 9], [8, 36, 4]]},
                "position_ids": {"int": [[2, 3, 4]] * B},
                "cache": 6,
                "attention_mask": {"int": [[1] * 6] * B},
                **SOURCE,
            },
            {
                "input_ids": {"int": [[11], [2]]},
                "position_ids": {"int": [[5]] * B},
                "past": True,
                "attention_mask": {"int": [[1] * 6] * B},
                **SOURCE,
            },
        ],
    ),
    "masked": ("ForMaskedLM", {}, {}, [{"input_ids": IDS, "attention_mask": MASK, **ALL}]),
    "masked-untied": ("ForMaskedLM", {"tie_word_embeddings": False}, {}, [{"input_ids": IDS, "return_dict": False}]),
    "classify": ("ForSequenceClassification", {"num_labels": 3}, {}, [{"input_ids": IDS, "attention_mask": MASK}]),
    "classify-tuple": ("ForSequenceClassification", {}, {}, [{"input_ids": IDS, "return_dict": False, **ALL}]),
    "tag": ("ForTokenClassification", {"num_labels": 5}, {}, [{"input_ids": IDS, "attention_mask": MASK, **ALL}]),
    "answer": ("ForQuestionAnswering", {}, {}, [{"input_ids": IDS, "attention_mask": MASK, **ALL}]),
    "answer-tuple": ("ForQuestionAnswering", {}, {}, [{"input_ids": IDS, "return_dict": False}]),
    "choose": ("ForMultipleChoice", {}, {}, [{"input_ids": CHOICES, **ALL}]),
    "choose-tuple": ("ForMultipleChoice", {}, {}, [{"input_ids": CHOICES, "return_dict": False}]),
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def parameters(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """The recorded weights in the shape of a nested dictionary of Flax parameters."""
    if hasattr(tree, "items"):
        return {name: parameters(inner, (*path, name)) for name, inner in tree.items()}
    shape = tree.shape[::-1] if path[-1] == "kernel" else tree.shape
    values = weight(".".join([*path[:-1], LEAVES[path[-1]]]), shape)
    return values.T if path[-1] == "kernel" else values


def main() -> None:
    """Record all cases and say how large the result is."""
    import jax
    import transformers

    assert transformers.__version__ == REFERENCE, transformers.__version__
    arrays: dict[str, np.ndarray] = {}
    written: dict[str, Any] = {}
    for name, (head, options, init, calls) in CASES.items():
        cls = getattr(transformers, "FlaxXLMRoberta" + head)
        model = cls(transformers.XLMRobertaConfig(**{**CONFIG, **options}), **init)
        model.params = jax.tree_util.tree_map(np.asarray, parameters(model.params))
        outputs, output = [], None
        for number, call in enumerate(calls):
            inputs = {key: value(item, array=np.array) for key, item in call.items() if key not in ("cache", "past")}
            if "cache" in call:
                inputs["past_key_values"] = model.init_cache(B, call["cache"])
            elif "past" in call:
                inputs["past_key_values"] = output["past_key_values"]
            output = model(**inputs)
            leaves = []
            for path, leaf in flatten(output):
                if not path.startswith("past_key_values"):
                    arrays[f"{name}/{number}/{path}"] = np.asarray(leaf)
                    leaves.append(path)
            outputs.append(leaves)
        written[name] = {
            "class": head,
            "config": {**CONFIG, **options},
            "init": init,
            "calls": calls,
            "outputs": outputs,
        }
    save(FOLDER / "outputs.npz", arrays)
    manifest = {"reference": f"transformers {REFERENCE}", "check": normal("check", (4,)).tolist(), "cases": written}
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(len(written), "cases,", sum(file.stat().st_size for file in FOLDER.glob("*.[nj][ps]*")), "bytes")


if __name__ == "__main__":
    main()
