"""Record what transformers 4.37.2 answers to every case of ``cases.py``.

    python3.11 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 transformers==4.37.2 'numpy<2' sentencepiece sacremoses
    /tmp/reference/bin/python tests/goldens/make_goldens.py

Writes ``manifest.json`` (models with the names and shapes of their state, cases with inputs, structure of outputs) and one
``.npz`` a family. Only the reference's answers are stored; the run is deterministic.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import transformers
from cases import cases, models
from layout import FOLDER, LEARNING_RATE, flatten, normal, save, state, value

REFERENCE = "4.37.2"


def plain(recorded: Any) -> Any:
    """Inputs as JSON knows them."""
    if isinstance(recorded, np.ndarray):
        return recorded.tolist()
    if isinstance(recorded, dict):
        return {name: plain(inner) for name, inner in recorded.items()}
    if isinstance(recorded, list):
        return [plain(inner) for inner in recorded]
    return recorded


def build(entry: dict[str, Any]) -> torch.nn.Module:
    """The reference's model with our weights; ``entry`` gains its state's names, shapes and ties."""
    cls = getattr(transformers, entry["class"])
    model = cls(cls.config_class(**entry["config"]), **entry["init"]).eval()
    tensors = model.state_dict()
    first: dict[tuple[int, torch.Size], str] = {}
    tied = {}
    for name, tensor in tensors.items():
        canonical = first.setdefault((tensor.data_ptr(), tensor.shape), name)
        if canonical != name:
            tied[name] = canonical
    entry["state"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    entry["tied"] = tied
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state(entry).items()})
    return model


def run(model: Any, recorded: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """One call of the case, by the method it names."""
    if recorded.get("by_parts"):  # the reference's adaptive softmax takes flat input only
        hidden = model.transformer(inputs["input_ids"])[0]
        flat = hidden.view(-1, hidden.shape[-1])
        answer = {"logits": model.pred_layer.proj.log_prob(flat).view(*hidden.shape[:2], -1)}
        if "labels" in inputs:
            answer = {"loss": model.pred_layer.proj(flat, inputs["labels"].view(-1)).loss, **answer}
        return answer
    return getattr(model, recorded.get("method", "__call__"))(**inputs)


def record(name: str, recorded: dict[str, Any], model: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run a case; its arrays go into ``arrays``, the rest is returned for the manifest."""
    answer: dict[str, Any] = {**recorded, "outputs": []}
    cache: dict[Any, Any] = {"slen": 0}
    past = None
    for number, call in enumerate(recorded["calls"]):
        inputs = {
            key: value(item, array=lambda array: torch.from_numpy(np.array(array)), past=past, cache=cache)
            for key, item in call.items()
        }
        leaves = {}
        with torch.set_grad_enabled(bool(recorded.get("train"))):
            output = run(model, recorded, inputs)
        for path, leaf in flatten(output):
            if isinstance(leaf, torch.Tensor):
                key = f"{name}/{number}/{path}"
                arrays[key] = leaf.detach().numpy().copy()
                leaves[path] = "array"
            else:
                leaves[path] = leaf
        answer["outputs"].append(leaves)
        past = output.get("past_key_values") if isinstance(output, dict) else None
    if recorded.get("train"):
        model.train()
        again = model(**inputs)
        again["loss"].backward()
        norms = {key: float(weight.grad.norm()) for key, weight in model.named_parameters() if weight.grad is not None}
        answer["gradient_norms"] = norms
        torch.optim.SGD(model.parameters(), LEARNING_RATE).step()
        for key, tensor in model.state_dict().items():
            if key not in models[recorded["model"]]["tied"]:
                arrays[f"{name}/step/{key}"] = tensor.numpy().copy()
    return answer


def main() -> None:
    """Record all cases and say how large the result is."""
    assert transformers.__version__ == REFERENCE, transformers.__version__
    torch.set_num_threads(1)
    kept: dict[str, dict[str, np.ndarray]] = {}
    written = {}
    for name, recorded in cases.items():
        torch.manual_seed(0)
        model = build(models[recorded["model"]])  # anew for each case: problem types stick to the config
        written[name] = record(name, plain(recorded), model, kept.setdefault(models[recorded["model"]]["family"], {}))
    for family, arrays in kept.items():
        save(FOLDER / f"{family}.npz", arrays)
    manifest = {
        "reference": f"transformers {REFERENCE}",
        "check": [float(number) for number in normal("check", (4,))],
        "models": models,
        "cases": written,
    }
    text = json.dumps(manifest, separators=(",", ":")).replace('},"', '},\n"')
    (FOLDER / "manifest.json").write_text(text + "\n")
    sizes = {path.name: path.stat().st_size for path in sorted(FOLDER.glob("*.[nj][ps]*"))}
    print(len(models), "models,", len(written), "cases,", sizes, sum(sizes.values()), "bytes")


if __name__ == "__main__":
    main()
