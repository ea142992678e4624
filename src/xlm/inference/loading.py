"""A folder or a name -> a model ready to run, its tokenizer, and where both stand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xlm.assets import BUNDLED, bundled_folder
from xlm.backends.torch.auto import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from xlm.backends.torch.models import MODELS
from xlm.backends.torch.placement import give_back, make_invariant, use_gpu
from xlm.checkpoints.quantized import METHOD
from xlm.errors import CheckpointError, ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.registry import family_of
from xlm.families.spec import EncoderSpec
from xlm.hub import resolve
from xlm.inference.embedding import Embedding, read_embedding
from xlm.tokenizers import AutoTokenizer

log = logging.getLogger("xlm")
# Weights in memory: their type, and how the encoder's matrices are quantized.
DTYPES: dict[str, tuple[torch.dtype, str | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "int8": (torch.bfloat16, "int8"),
}
# What a model can be asked, by the end of its class's name; the first that fits.
_TASKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ForMaskedLM", ("fill-mask", "embed")),
    ("ForCausalLM", ("generate", "embed")),
    ("WithLMHeadModel", ("fill-mask", "generate", "embed")),
    ("ForSequenceClassification", ("classify", "rerank")),
    ("ForTokenClassification", ("tag",)),
    ("ForQuestionAnswering", ("answer",)),
    ("ForQuestionAnsweringSimple", ("answer",)),
    ("ForMultipleChoice", ("choose",)),
    ("EncoderDecoderModel", ("translate",)),
    ("Model", ("embed",)),
)
# An architecture that ends so has a head over the vocabulary.
_LM_ENDINGS = ("ForMaskedLM", "ForCausalLM", "WithLMHeadModel")


@dataclass(frozen=True)
class Loaded:
    """What an engine runs on."""

    model: Any
    tokenizer: Any
    spec: EncoderSpec
    name: str
    dtype: str
    device: torch.device
    embedding: Embedding
    folder: Path
    compiled: bool = False
    batch_invariant: bool = False


def load_parts(
    path_or_name: str | Path | None,
    dtype: str | None,
    device: str | None,
    batch_invariant: bool = False,
    compiled: bool = False,
    strict_finite: bool = False,
    offload: str | None = None,
    allow_pickle: bool = True,
) -> Loaded:
    """Load model and tokenizer; arguments and errors as in :func:`xlm.load`."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}")
    place = find_device(device)
    folder = resolve(BUNDLED if path_or_name is None else path_or_name)
    config = AutoConfig.from_pretrained(folder)
    if dtype is None:
        dtype = "int8" if is_quantized(config) and place.type == "cpu" else "float32"
        if is_quantized(config) and dtype != "int8":
            log.warning(
                "%s holds int8 weights, which are for the CPU: on %s they are widened to float32, four times as large; "
                "choose dtype='bfloat16' for half of that", folder, place,
            )  # fmt: skip
    if dtype == "int8" and place.type != "cpu":
        raise ConfigError(f"dtype is 'int8' and device is {str(place)!r}: int8 is for the CPU")
    if dtype == "float16" and place.type == "cpu":
        raise ConfigError("dtype is 'float16' and device is 'cpu': float16 is for GPUs; choose bfloat16")
    if offload is not None and place.type != "cpu":
        raise ConfigError(f"offload is {offload!r} and device is {str(place)!r}: it is for the CPU")
    if compiled and (place.type != "cuda" or batch_invariant):
        raise ConfigError(f"compile=True with device {str(place)!r}: it needs a GPU, and excludes batch_invariant")
    if compiled and dtype == "float32":
        raise ConfigError(
            "compile=True with dtype 'float32': the packed attention is of bfloat16 and float16: choose one"
        )
    if dtype == "bfloat16":
        _warn_of_bfloat16(place)
    if batch_invariant and config.is_composition:
        raise ConfigError("batch_invariant=True: not for translation, whose beams of all texts run together")
    torch_dtype, quantization = DTYPES[dtype]
    options: dict[str, Any] = {"dtype": torch_dtype, "quantization": quantization, "strict_finite": strict_finite}
    options["allow_pickle"] = allow_pickle
    if offload is not None:
        options["offload"] = offload
    if place.type == "cpu":
        options["for_inference"] = True
    model = documented_model(folder, config, **options).eval().requires_grad_(False).to(place)
    if place.type == "cuda" and (why := use_gpu(model)) and compiled:
        raise ConfigError(f"compile=True needs packed attention: {why}")
    if batch_invariant:
        make_invariant(model)
    give_back()  # before and after the tokenizer is read, which takes as much for a while
    tokenizer = AutoTokenizer.from_pretrained(folder)
    give_back()
    name = BUNDLED if folder == bundled_folder() else str(path_or_name)
    spec = model.encoder_host.spec
    if len(tokenizer) > spec.vocab_size:
        raise CheckpointError(
            f"{name}: the tokenizer has {len(tokenizer):,} ids, the model's table {spec.vocab_size:,} rows: "
            "they do not belong together"
        )
    folder = Path(folder)
    embedding = read_embedding(folder, allow_pickle)
    return Loaded(model, tokenizer, spec, name, dtype, place, embedding, folder, compiled, batch_invariant)


def is_quantized(config: Any) -> bool:
    """Whether a folder's weights were written by ``xlm quantize``."""
    return (getattr(config, "quantization_config", None) or {}).get("quant_method") == METHOD


def documented_model(folder: str | Path, config: Any, **options: Any) -> Any:
    """The documented class that a config names, loaded; an encoder without a pooler where it names none."""
    if config.is_composition:
        return AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
    family = family_of(config)
    known = [name for name in config.architectures or () if name in MODELS and name != f"{family.class_prefix}Model"]
    if known and MODELS[known[0]].config_class is family.config_class:
        return MODELS[known[0]].from_pretrained(folder, **options)
    if any(name.endswith(_LM_ENDINGS) for name in config.architectures or ()):  # of another family's name
        return AutoModelForMaskedLM.from_pretrained(folder, **options)
    if family.pooler:
        options["add_pooling_layer"] = False
    return AutoModel.from_pretrained(folder, **options)


def load_documented(folder: str | Path, dtype: torch.dtype) -> Any:
    """The documented model of a folder, as it is computed everywhere, for inference on the CPU."""
    config = AutoConfig.from_pretrained(folder)
    return documented_model(folder, config, dtype=dtype).eval().requires_grad_(False)


def find_device(device: str | None) -> torch.device:
    """The device of a name; without one a GPU if there is one, else the CPU.

    Raises:
        ConfigError: no such device, here or anywhere.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        place = torch.device("cuda")
        if why := _why_not(place):
            log.warning("there is a GPU, but it does not compute: %s; the CPU does", why)
            return torch.device("cpu")
        return place
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is {device!r}: not usable here: {_first_line(error)}") from error
    if why := _why_not(place):
        raise ConfigError(f"device is {device!r}: not usable here: {why}")
    return place


def _why_not(place: torch.device) -> str | None:
    """Why a device does not compute. Memory alone is to be had, too, on a GPU for which PyTorch was built without kernels."""
    try:
        (torch.ones(1, device=place) + 1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return _first_line(error)
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _warn_of_bfloat16(place: torch.device) -> None:
    """Tell of GPUs that have no instructions for it: they compute in float32, or refuse."""
    if (
        place.type == "cuda"
        and torch.version.hip is None
        and (have := torch.cuda.get_device_capability(place)) < (8, 0)
    ):
        log.warning(
            "dtype is 'bfloat16' and %s has compute capability %d.%d: bfloat16 needs 8.0; choose float16", place, *have
        )


def tasks_of(model: Any) -> tuple[str, ...]:
    """What a model can be asked: ``embed``, ``fill-mask``, ``classify``, ..."""
    tasks = next(tasks for ending, tasks in _TASKS if type(model).__name__.endswith(ending))
    if "rerank" in tasks and model.config.num_labels > 2:  # one score, or those of no and yes
        tasks = tuple(task for task in tasks if task != "rerank")
    return tasks
