"""What a recipe will need before anything is bought: memory a GPU, tokens a second, days. Nothing is trained.

Weights, gradients and Adam's moments are counted; what backward keeps of a micro-batch is found by running one and two
layers on fake tensors, which have shapes and no memory. Time is arithmetic over a *stated* share of the GPU's peak rate:
it is an assumption to be replaced by a measurement, not a promise.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xlm.batches.batch import Batch
from xlm.errors import ConfigError, XLMError
from xlm.families.registry import family_of
from xlm.training.objectives import gpu_logits
from xlm.training.recipe import Recipe

FRACTION = 0.40
RUNTIME = 2.0e9  # bytes: CUDA context, libraries, NCCL's buffers, the allocator's gaps


@dataclass(frozen=True)
class Hardware:
    """Memory in bytes, dense bf16 peak in FLOP/s, and bytes a second a GPU sends: inside a node of 8, and between nodes."""

    memory: float
    peak: float
    inside: float
    between: float


GPUS = {  # the makers' data sheets; between nodes one 400 Gbit/s (A100: 200) adapter a GPU
    "a100-40": Hardware(40e9, 312e12, 300e9, 25e9),
    "a100": Hardware(80e9, 312e12, 300e9, 25e9),
    "h100": Hardware(80e9, 989e12, 450e9, 50e9),
    "h200": Hardware(141e9, 989e12, 450e9, 50e9),
    "b200": Hardware(180e9, 2250e12, 900e9, 50e9),
}


@dataclass(frozen=True)
class Plan:
    """Bytes a GPU by what they hold, and the times that follow. Seconds are of an optimizer step."""

    gpus: int
    gpu: str
    parallel: str
    parameters: int
    micro_tokens: int
    micro_batches: int
    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float
    runtime: float
    available: float
    fraction: float
    compute_seconds: float
    communication_seconds: float
    tokens_per_second: float
    days: float | None

    @property
    def memory(self) -> float:
        """All bytes of a GPU together."""
        parts = (self.weights, self.gradients, self.optimizer, self.gathered, self.activations, self.logits)
        return sum(parts) + self.runtime

    @property
    def fits(self) -> bool:
        """Whether that is less than nine tenths of what the GPU has."""
        return self.memory <= 0.9 * self.available


def plan(recipe: Recipe, gpus: int = 8, gpu: str = "h100", fraction: float = FRACTION) -> Plan:
    """The plan of a recipe on ``gpus`` GPUs of a kind, computing in bf16.

    Raises ``ConfigError`` for an unknown kind, no GPU, a share outside (0, 1] and a vocabulary of unknown size.
    """
    if gpu not in GPUS:
        raise ConfigError(f"--gpu {gpu!r}: it must be one of {', '.join(GPUS)}")
    if gpus < 1:
        raise ConfigError(f"--gpus {gpus}: it must be at least 1")
    if not 0 < fraction <= 1:
        raise ConfigError(f"--fraction {fraction}: it must be above 0 and at most 1")
    hardware, config = GPUS[gpu], model_config(recipe)
    with torch.device("meta"):
        model = _model(recipe, config)
    total = _count(model)
    layers = model.base_model.encoder.layer
    layer = _count(layers[0])
    rest = total - layer * len(layers)
    longest = max(phase.length for phase in recipe.batch.phases)
    tokens = recipe.batch.tokens
    micro = min(recipe.batch.micro_tokens or -(-tokens // gpus), -(-tokens // gpus))
    micro = max(micro // longest, 1) * longest
    passes = max(-(-tokens // (micro * gpus)), 1)
    cut = recipe.parallel == "shard" and gpus > 1
    share = gpus if cut else 1
    kept = layer_bytes(recipe, micro, longest, cut)
    if recipe.gradient_checkpointing:
        activations = len(layers) * micro * model.spec.hidden_size * (2 if cut else 4) + kept
    else:
        activations = len(layers) * kept
    # Cut: embeddings and head stay gathered with their gradients; of layers two are there, and one's gradient twice.
    gathered = 4.0 * rest + 2 * 2 * layer + (2 + 4) * layer if cut else 0.0
    masked = micro if recipe.objectives.only_causal else round(micro * recipe.masking.rate)
    chunk = min(masked, max(gpu_logits(hardware.memory) // model.spec.vocab_size, 1))
    logits = chunk * (2.0 * model.spec.vocab_size + 3 * 4 * min(65536, model.spec.vocab_size))
    if not cut:  # the table in bf16; cut models gather it so
        logits += 2.0 * model.spec.vocab_size * model.spec.hidden_size
    compute = tokens * flops_per_token(model, recipe, longest) / (gpus * hardware.peak * fraction)
    speed = hardware.inside if gpus <= 8 else hardware.between
    moved = passes * (2 * 2 + 4) * total if cut else 2 * 4 * total
    communication = moved / speed if gpus > 1 else 0.0
    # Gathering and computing overlap: a step takes what takes longer.
    seconds = max(compute, communication)
    steps = recipe.schedule.steps
    return Plan(
        gpus=gpus,
        gpu=gpu,
        parallel="shard" if cut else "replicate",
        parameters=total,
        micro_tokens=micro,
        micro_batches=passes,
        weights=4.0 * total / share,
        gradients=4.0 * total / share,
        optimizer=8.0 * total / share,
        gathered=gathered,
        activations=float(activations),
        logits=logits,
        runtime=RUNTIME,
        available=hardware.memory,
        fraction=fraction,
        compute_seconds=compute,
        communication_seconds=communication,
        tokens_per_second=tokens / seconds,
        days=steps * seconds / 86400 if steps else None,
    )


def model_config(recipe: Recipe) -> Any:
    """The recipe's model's config; the vocabulary's size from ``model.config`` or else from the tokenizer."""
    if recipe.model.path:
        from xlm.families.auto import AutoConfig

        return AutoConfig.from_pretrained(recipe.path(recipe.model.path))
    values = dict(recipe.model.config)
    if "vocab_size" not in values:
        try:
            from xlm.data.vocabulary import load_vocabulary

            values["vocab_size"] = load_vocabulary(recipe.path(recipe.tokenizer)).size
        except (XLMError, OSError) as error:
            raise ConfigError(
                f"tokenizer = {recipe.tokenizer!r} is not there to be counted: give the number of its ids, "
                "for example --set model.config.vocab_size=250002"
            ) from error
    return family_of(recipe.model.family).config_class(**values)


def flops_per_token(model: Any, recipe: Recipe, length: int) -> float:
    """Floating-point operations a token of a step: forward, backward, and layers once more where they are recomputed."""
    spec = model.spec
    layers = sum(p.numel() for p in model.base_model.encoder.layer.parameters() if p.ndim == 2)
    passes = 8 if recipe.gradient_checkpointing else 6
    attention = spec.num_layers * length * spec.hidden_size * (2 if recipe.objectives.only_causal else 4)
    predicted = 1.0 if recipe.objectives.only_causal else recipe.masking.rate
    return passes * (layers + attention / 2) + 6 * predicted * spec.hidden_size * spec.vocab_size


def layer_bytes(recipe: Recipe, tokens: int, length: int, cut: bool) -> int:
    """What backward keeps of one layer, by a dry run of two models that differ by a layer. Attention keeps no weights, as
    the kernels of GPUs do."""
    sizes = []
    for layers in (1, 2):
        config = copy.deepcopy(model_config(recipe))
        config.num_hidden_layers = layers
        for name in ("attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(config, name):
                setattr(config, name, 0.0)
        sizes.append(_dry_run(recipe, config, tokens, length, cut))
    return sizes[1] - sizes[0]


def _dry_run(recipe: Recipe, config: Any, tokens: int, length: int, cut: bool) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if cut else torch.float32)
        try:
            model = _model(recipe, config).train()
        finally:
            torch.set_default_dtype(before)
        rows = [length] * (tokens // length)
        zeros = torch.zeros(tokens, dtype=torch.long)
        batch = Batch.packed(zeros, rows, position_ids=zeros, languages=zeros if model.spec.num_languages else None)
        with torch.autocast("cpu", torch.bfloat16, enabled=not cut):
            return saved_bytes(model, batch)


def saved_bytes(model: Any, batch: Batch) -> int:
    """The bytes of all tensors that a forward keeps for backward, weights excepted, each memory counted once."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            kept[key] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.states(batch)
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del states
    return size


def _model(recipe: Recipe, config: Any) -> Any:
    from xlm.backends.torch.auto import AutoModelForCausalLM, AutoModelForMaskedLM

    auto = AutoModelForCausalLM if recipe.objectives.only_causal else AutoModelForMaskedLM
    return auto.from_config(config)


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
