"""The README.md beside saved weights: what the model is and how to open it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlm.families.config import PretrainedConfig


def model_card(config: PretrainedConfig, parameters: int, tags: Sequence[str] = ()) -> str:
    """A short model card (Markdown with front matter); its sections are there to be filled in."""
    name = (config.architectures or [config.model_type])[0]
    own: Any = config.get_text_config(decoder=True)
    layers = f"{own.num_hidden_layers} layers"
    if own is not config:
        layers = f"an encoder of {config.get_text_config(encoder=True).num_hidden_layers} and a decoder of {layers}"
    sizes = f"{layers} x {own.hidden_size} hidden, {own.num_attention_heads} heads, vocabulary {own.vocab_size}"
    lines = ["---", "library_name: xlm", "tags:", *(f"- {tag}" for tag in ("xlm", config.model_type, *tags)), "---", ""]
    lines += [f"# {name}", "", f"`{config.model_type}`, {parameters:,} parameters: {sizes}.", ""]
    lines += ["```python", "import xlm", "", f"model = xlm.{name}.from_pretrained('path/to/this/folder')", "```", ""]
    for title in ("Training data", "Training", "Evaluation", "Limits"):
        lines += [f"## {title}", "", "Not filled in.", ""]
    return "\n".join(lines)
