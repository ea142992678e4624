"""What every model can do beside computing: initialise, load, save, tie, resize, prune, place."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xlm.backends.torch import weights
from xlm.backends.torch.arrays import dtype_of
from xlm.backends.torch.assign import assign_all
from xlm.backends.torch.embeddings import sinusoids
from xlm.backends.torch.encoder import Recompute
from xlm.checkpoints.matching import COPIES
from xlm.errors import ConfigError, InputError
from xlm.families.config import PretrainedConfig
from xlm.families.registry import Family, family_of
from xlm.families.spec import EncoderSpec
from xlm.publish import Published, push_saved, stamps, take_upload


class PreTrainedModel(nn.Module, Published):
    """Base of all PyTorch models.

    In memory every family carries XLM-R's tensor names; :meth:`save_pretrained` writes the family's published names, so
    its files open in ``transformers`` and the other way round.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    base_model_prefix: ClassVar[str] = "roberta"
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True
    new_head: ClassVar[tuple[str, ...]] = ()
    """Prefixes of head tensors that a checkpoint may lack: they start fresh and the report says so."""
    accepts_loss_kwargs: ClassVar[bool] = False
    computed_by: str = "PyTorch"
    """Which operations were chosen for this processor when the model was loaded for inference."""
    is_parallelizable: ClassVar[bool] = False
    _no_split_modules: ClassVar[list[str]] = ["Layer"]
    _tp_plan: ClassVar[dict[str, str]] = {}

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"config={type(config).__name__}: {type(self).__name__} needs a {self.config_class.__name__}"
            )
        self.config = config
        own = config.get_text_config(decoder=True)
        self.spec: EncoderSpec = family_of(own).spec(own)
        self.name_or_path = config.name_or_path
        self.warnings_issued: dict[str, bool] = {}

    @property
    def family(self) -> Family:
        """The record of the model's family; of two models in one, the decoder's."""
        return family_of(self.config.get_text_config(decoder=True))

    def parts(self) -> dict[str, PreTrainedModel]:
        """Prefix in files -> the models of one family each that this one consists of: itself alone, or two sides."""
        return {"": self}

    def copies(self) -> dict[str, str]:
        """Names of parameters that are one with another -> that other's name."""
        return COPIES

    @property
    def base_model(self) -> PreTrainedModel:
        """The model without its head."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def encoder_host(self) -> Any:
        """The module that holds ``embeddings`` and ``encoder``."""
        return self.base_model

    # -- construction -------------------------------------------------------------------------------------------------

    def post_init(self) -> None:
        """Finish construction: initialise (unless the parameters have no memory yet), prune, tie."""
        if next(self.parameters()).device.type != "meta":
            self.init_weights()
        if self.config.pruned_heads and not hasattr(self, self.base_model_prefix):
            self._prune(self.config.pruned_heads)
        self.tie_weights()

    def init_weights(self) -> None:
        """Initialise every parameter as the papers' code does: normal tables and linears, zero biases and padding."""
        for name, module in self.named_modules():
            self._init_module(name, module)

    @torch.no_grad()
    def _init_module(self, name: str, module: nn.Module) -> None:
        spec = self.spec
        if isinstance(module, nn.Linear):
            module.weight.normal_(0.0, spec.init_std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, spec.embedding_init_std if "embeddings" in name else spec.init_std)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
            if spec.sinusoidal and name.endswith("position_embeddings"):
                module.weight.copy_(sinusoids(*module.weight.shape))
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()

    @classmethod
    def _from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Self:
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        kwargs.pop("attn_implementation", None)
        model = cls(config, **kwargs)
        return model if dtype is None else model.to(dtype=dtype_of(dtype))

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Self:
        """A model with fresh weights."""
        return cls._from_config(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model from a folder or a hub name; see :func:`xlm.backends.torch.weights.load`."""
        return weights.load(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        save_function: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config, weights (safetensors, in shards past ``max_shard_size``) and a model card; all or nothing.

        Args:
            save_function: not used: tensors are written one at a time.
            push_to_hub: upload what was written to ``repo_id``, by default the folder's name; ``kwargs`` are of the upload.
            variant: ``"fp16"`` writes ``model.fp16.safetensors``, which :meth:`from_pretrained` finds by the same word.

        Raises:
            ArgumentError: an unknown argument.
            OutputError: the folder cannot be written or the disk is full; what was there before is intact.
        """
        del save_function
        upload, folder = take_upload(type(self), kwargs, push_to_hub), Path(save_directory)
        if not is_main_process:
            return
        before = stamps(folder)
        weights.save(self, folder, state_dict, max_shard_size, safe_serialization, variant)
        if push_to_hub:
            push_saved(folder, before, upload)

    # -- properties ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the first floating parameter."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, tied ones once."""
        skip = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} if exclude_embeddings else set()
        return sum(
            p.numel() for p in self.parameters() if id(p) not in skip and (p.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, and of the buffers."""
        held = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(t.nelement() * t.element_size() for t in held)

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Note tags for the model card."""
        self.model_tags = [tags] if isinstance(tags, str) else list(tags)

    # -- embeddings and heads -----------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The word table."""
        return self.encoder_host.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word table, whose rows are the vocabulary from now on; a tied head follows, its bias included.

        Raises:
            InputError: no matrix of the model's width with a row for padding.
        """
        table = getattr(value, "weight", None)
        hidden, pad = self.spec.hidden_size, self.spec.pad_id
        if table is None or table.ndim != 2 or table.shape[1] != hidden or table.shape[0] <= pad:
            shape = None if table is None else tuple(table.shape)
            raise InputError(f"value: a table of shape {shape}; must be (more than {pad}, the padding id, {hidden})")
        self.encoder_host.embeddings.word_embeddings = value
        self._count_words(table.shape[0])
        self.tie_weights()

    def _count_words(self, count: int) -> None:
        """Note the number of rows of the word table where it is read."""
        self.config.vocab_size = count
        self.base_model.config.vocab_size = count
        self._refresh_spec()

    def get_output_embeddings(self) -> nn.Module | None:
        """The decoder of a language modelling head, or ``None``."""
        return None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the decoder of a language modelling head."""
        raise InputError(f"set_output_embeddings: {type(self).__name__} has no output embeddings")

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Make parameters that are one in the architecture one in memory; models without such parameters do nothing."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = False
    ) -> nn.Embedding:
        """Give the word table (and the head) another number of rows; kept rows stay bit-identical.

        Raises:
            InputError: the number is not positive, or the head is an adaptive softmax.
        """
        old: Any = self.get_input_embeddings()
        if new_num_tokens is None and pad_to_multiple_of is None:
            return old
        count = old.weight.shape[0] if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of:
            count = -(-count // pad_to_multiple_of) * pad_to_multiple_of
        if count < 1 or count <= self.spec.pad_id:
            raise InputError(f"new_num_tokens={count}: must be above the padding id {self.spec.pad_id}")
        if count == old.weight.shape[0]:
            return old
        self._resize_head(count)
        table = nn.Embedding(count, old.weight.shape[1], padding_idx=old.padding_idx, device="meta")
        table.weight = nn.Parameter(self._resized(old.weight, count, mean_resizing), old.weight.requires_grad)
        self.encoder_host.embeddings.word_embeddings = table
        self._count_words(count)
        self.tie_weights()
        return table

    def _resized(self, old: Tensor, count: int, mean: bool = False) -> Tensor:
        new = old.new_empty((count, *old.shape[1:]))
        if old.ndim == 1:
            new.zero_()
        else:
            new.normal_(0.0, self.spec.embedding_init_std)
            if mean:
                new.add_(old.detach().mean(dim=0))
        rows = min(count, old.shape[0])
        new[:rows] = old.detach()[:rows]
        return new

    def _resize_head(self, count: int) -> None:
        """Resize what has a row a token beside the word table."""

    def _refresh_spec(self) -> None:
        spec = family_of(self.config).spec(self.config)
        self.spec = spec
        self.base_model.spec = spec
        self.encoder_host.embeddings.spec = spec

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove attention heads: ``{layer: [heads]}``; noted in the config, so that loading knows."""
        known = {k: set(v) for k, v in self.config.pruned_heads.items()}
        for layer, heads in heads_to_prune.items():
            known[int(layer)] = known.get(int(layer), set()) | set(heads)
        self._prune(heads_to_prune)
        self.config.pruned_heads = {k: sorted(v) for k, v in known.items()}

    def _prune(self, heads: dict[int, list[int]]) -> None:
        layers = self.encoder_host.encoder.layer
        for number, chosen in heads.items():
            if not 0 <= int(number) < len(layers):
                raise InputError(f"layer {number}: the model has layers 0 to {len(layers) - 1}")
            layers[int(number)].attention.prune_heads(set(chosen))

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All tensors under their names in memory, tied ones under each of their names.

        The second name of a tied tensor holds a copy: writers of safetensors, such as other libraries' trainers, refuse
        tensors that share memory. With ``keep_vars=True`` the parameters themselves are returned.
        """
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name, original in self.copies().items():
            tensor, first = state.get(prefix + name), state.get(prefix + original)
            if tensor is not None and first is not None and not kwargs.get("keep_vars"):
                if tensor.device.type != "meta" and tensor.data_ptr() == first.data_ptr():
                    state[prefix + name] = tensor.clone()
        return state

    # -- gradients ----------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute layers in the backward pass instead of keeping their activations.

        Args:
            gradient_checkpointing_kwargs: options of ``torch.utils.checkpoint.checkpoint``.
            every_n_layers: recompute every n-th layer only.
            offload: hold the layers' inputs in the host's memory.

        Raises:
            InputError: ``every_n_layers`` is not positive.
        """
        if every_n_layers < 1:
            raise InputError(f"every_n_layers={every_n_layers}: must be at least 1")
        encoder = self.encoder_host.encoder
        encoder.recompute = Recompute(every_n_layers, offload, dict(gradient_checkpointing_kwargs or {}))
        encoder.gradient_checkpointing = True

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """:meth:`gradient_checkpointing_enable` under the name that newer trainers call."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self.encoder_host.encoder.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return bool(self.encoder_host.encoder.gradient_checkpointing)

    def enable_input_require_grads(self) -> None:
        """Let gradients reach the embeddings' output even where the table is frozen (adapters need it)."""

        def require(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            output.requires_grad_(True)

        self._require_grads_hook = self.get_input_embeddings().register_forward_hook(require)

    def disable_input_require_grads(self) -> None:
        """Undo :meth:`enable_input_require_grads`."""
        self._require_grads_hook.remove()

    def can_generate(self) -> bool:
        """Whether the model has a head that can continue text."""
        return False

    def warn_once(self, key: str, message: str) -> None:
        """Warn the first time only."""
        if key not in self.warnings_issued and not torch.compiler.is_compiling():
            self.warnings_issued[key] = True
            warnings.warn(message, stacklevel=3)


def load_reference_state_dict(model: PreTrainedModel, state: dict[str, Tensor], strict: bool = True) -> Any:
    """Fill a model from a state dict under its family's published names.

    Returns:
        the report of what was missing and unexpected.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    report = assign_all(model, state, {}, copy=True)
    report.raise_for(strict=strict, ignore_missing=not strict)
    model.tie_weights()
    return report


__all__ = ["PreTrainedModel", "load_reference_state_dict"]
