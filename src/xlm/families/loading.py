"""What the keywords of a model's ``from_pretrained`` are: options of loading, fields of the config, arguments of the class.

Options that a backend knows are taken before; of the others nothing reaches a config unless it is a field of it.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import os
import warnings
from pathlib import Path
from typing import Any

from xlm.errors import ArgumentError
from xlm.families.config import PretrainedConfig

# Options of other libraries that ask for nothing here: formats are found out, loading is always lean.
_NEEDLESS = """
from_tf from_flax from_pt low_cpu_mem_usage weights_only mirror resume_download adapter_kwargs user_agent attn_implementation
tf_to_pt_weight_rename _from_auto _from_pipeline _fast_init _commit_hash
""".split()
# Options that would change something elsewhere: without them the result is right, so a warning does.
_WITHOUT = {
    "trust_remote_code": "code from a checkpoint is never run",
    "code_revision": "code from a checkpoint is never run",
    "offload_folder": "offload='disk' reads weights from the checkpoint's own files",
    "offload_state_dict": "weights are read one at a time anyway",
    "offload_buffers": "nothing is offloaded but by offload='disk'",
    "use_flash_attention_2": "the attention is chosen by device and type",
}
# Options without which the result would be another: refused.
_REFUSED = {
    "load_in_8bit": "write int8 weights with `xlm quantize`, or use xlm.load(folder, dtype='int8')",
    "load_in_4bit": "int8 is the smallest: `xlm quantize`, or xlm.load(folder, dtype='int8')",
    "quantization_config": "write int8 weights with `xlm quantize`, or use xlm.load(folder, dtype='int8')",
    "max_memory": "a model is placed on one device, e.g. device_map='cuda:0'",
}


def settle(
    cls: type[Any],
    config: Any,
    name_or_path: Any,
    folder: Path | None,
    keywords: dict[str, Any],
    hub: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """The config to load a model with, and the arguments of its class.

    Args:
        cls: the model's class.
        config: ``None``: the folder's; a folder, file or hub name; or a config, of which a copy is taken.
        name_or_path: what the caller asked for.
        folder: where that is; ``None`` where nothing was asked for, and ``config`` says all.
        keywords: what no option of loading has taken. With a config object they are arguments of the class; else fields
            of the config first, which override the file's.
        hub: options of :func:`xlm.hub.resolve`, for a config of another place.

    Raises:
        ArgumentError: a keyword is neither; names what was probably meant.
        CheckpointError: there is no such config.
    """
    for name in [*_NEEDLESS, *_WITHOUT, *_REFUSED]:
        value = keywords.pop(name, None)
        if not value:
            continue
        if name in _REFUSED:
            raise ArgumentError(f"{name}={value!r}: not offered; {_REFUSED[name]}")
        if name in _WITHOUT:
            warnings.warn(f"{name}={value!r} is ignored: {_WITHOUT[name]}", stacklevel=4)
    accepted, fields = _arguments(cls), set()
    if isinstance(config, PretrainedConfig):
        config, rest = copy.deepcopy(config), keywords
    else:
        if config is None and folder is None:
            raise ArgumentError(f"{name_or_path!r}: give a folder or hub name, or a config and a state_dict")
        place: Any = folder if config is None else config
        options = {} if config is None else hub
        taken = {k: keywords.pop(k) for k in list(keywords) if k in accepted - cls.config_class.fields()}
        config, rest = cls.config_class.from_pretrained(
            os.fspath(place), return_unused_kwargs=True, **keywords, **options
        )
        fields, rest = cls.config_class.fields(), {**rest, **taken}
        if place is folder:
            config.name_or_path = str(name_or_path)
    for name, value in rest.items():
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted | fields, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            what = "an argument of the class" + (
                ", nor a field of its config" if fields else "; set config fields in config"
            )
            raise ArgumentError(f"{name}={value!r}: neither an option of from_pretrained nor {what}{hint}")
    return config, rest


def _arguments(cls: type[Any]) -> set[str]:
    """The keywords that a class's constructor names, down to the first that passes nothing on."""
    names: set[str] = set()
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        found = list(inspect.signature(owner.__init__).parameters.values())[1:]
        names |= {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if found and all(p.kind is not p.VAR_KEYWORD for p in found):
            break
    return names - {"config"}
