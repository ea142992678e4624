"""What every Flax model can do beside computing: initialise, load, save, hold its parameters, place them on a mesh."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from xlm.backends.flax import outputs, sharding, weights
from xlm.backends.flax.compiling import compiled, compiler_options
from xlm.backends.flax.encoder import empty_cache
from xlm.backends.flax.inputs import make_call
from xlm.backends.flax.trunk import Call, Trunk
from xlm.batches.batch import Batch
from xlm.batches.packing import sequence_ids
from xlm.errors import ConfigError, InputError
from xlm.families.config import PretrainedConfig
from xlm.families.registry import Family, family_of
from xlm.publish import Published, push_saved, stamps, take_upload

Stacked = nnx.State[Any, Any]


@compiled
def _answer(graph: Any, params: Stacked, call: Call) -> Any:
    return nnx.merge(graph, params).answer(call)


@compiled
def _states(graph: Any, params: Stacked, call: Call) -> Array:
    return nnx.merge(graph, params).states(call).states


@compiled
def _score(graph: Any, params: Stacked, rows: Array) -> Array:
    return nnx.merge(graph, params).score(rows)


class FlaxPreTrainedModel(Published):
    """Base of all Flax models: a config, an NNX module without values (``graph``) and, unless ``_do_init=False``, values.

    A call is pure: with ``params`` it reads nothing else of the model. ``params`` is either the nested dictionary that
    ``model.params`` shows, with the reference's names and a dictionary a layer, or what :meth:`stack` makes of it: the
    form in which the model computes. The former is stacked anew in every call, the latter never.

    Args:
        config: the model's config.
        input_shape: accepted for the reference's signature; shapes of parameters do not depend on it.
        seed: of fresh parameters.
        dtype: in which the model computes (``jnp.bfloat16``); parameters stay as they are, norms and softmax float32.
        _do_init: whether to hold parameters at all.
        gradient_checkpointing: recompute layers in the backward pass (``remat``).
        add_pooling_layer: whether a model without a head has a pooler.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    net_class: ClassVar[type[Any]]
    main_input_name: ClassVar[str] = "input_ids"
    framework: ClassVar[str] = "flax"

    def __init__(
        self,
        config: PretrainedConfig,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        gradient_checkpointing: bool = False,
        add_pooling_layer: bool = True,
    ) -> None:
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"config={type(config).__name__}: {type(self).__name__} needs a {self.config_class.__name__}"
            )
        spec = family_of(config).spec(config)
        if spec.cross_attention and not spec.is_decoder:
            raise ConfigError("add_cross_attention=True: cross-attention is for decoders; set is_decoder=True")
        if config.pruned_heads:
            raise ConfigError(
                "pruned_heads: the layers of a Flax model are one stack of equal shape; "
                "load the checkpoint with the PyTorch classes"
            )
        self.config, self.spec, self.seed = config, spec, seed
        self.name_or_path = config.name_or_path
        self.dtype = weights.dtype_of(dtype)
        self.gradient_checkpointing = gradient_checkpointing
        base = issubclass(self.net_class, Trunk)
        net = self.net_class(config, add_pooling_layer) if base else self.net_class(config)
        self.graph, shapes = nnx.split(net)
        self.slots = weights.Slots(shapes, self.family, spec, base)
        self.mesh: jax.sharding.Mesh | None = None
        self._params: Stacked | None = None
        if _do_init:
            self.set_stacked(nnx.State(weights.unflatten(self.slots.fresh(jax.random.key(seed)))))

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, params: Any, given: dict[str, Any], dropout_rng: Any, train: bool, return_dict: bool | None) -> Any:
        """One documented call; see :func:`xlm.backends.flax.inputs.make_call` for its errors."""
        made = make_call(
            self.net_class,
            self.spec,
            self.config,
            {**given, "dropout_rng": dropout_rng},
            train=train,
            dtype=self.dtype,
            remat=self.gradient_checkpointing,
        )
        output = _answer(self.dtype, self.graph, self._stacked(params), made)
        if self.config.use_return_dict if return_dict is None else return_dict:
            return output
        if isinstance(output, outputs.FlaxBaseModelOutput | outputs.FlaxBaseModelOutputWithPoolingAndCrossAttentions):
            # The reference puts the cache second.
            rest = output.replace(past_key_values=None).to_tuple()
            return rest if output.past_key_values is None else (rest[0], output.past_key_values, *rest[1:])
        return output.to_tuple()

    def states(self, batch: Batch, params: Any = None) -> Array:
        """Last hidden states (tokens, hidden) of a batch, padded (rows b*s) or packed.

        A packed batch runs as one row whose tokens see their own sequence only; its cost grows with the square of its
        tokens.
        """
        given: dict[str, Any] = {
            "position_ids": batch.position_ids,
            "token_type_ids": batch.token_type_ids,
            "langs": batch.languages,
        }
        if batch.lengths is None:
            given |= {"input_ids": batch.ids, "attention_mask": batch.mask}
        else:
            given = {name: None if value is None else value[None] for name, value in given.items()}
            given |= {"input_ids": batch.ids[None], "segment_ids": sequence_ids(batch.lengths)[None] + 1}
        net = _PACKS if batch.is_packed else _PADS
        made = make_call(net, self.spec, self.config, given, train=False, dtype=self.dtype, remat=False)
        return _states(self.dtype, self.graph, self._stacked(params), made).reshape(-1, self.spec.hidden_size)

    def lm_logits(self, rows: Array, params: Any = None) -> Array:
        """The head of a language model on chosen states: (rows, hidden) -> (rows, vocab)."""
        return _score(rows.dtype, self.graph, self._stacked(params), rows)

    def init_cache(self, batch_size: int, max_length: int, encoder_outputs: Any = None) -> dict[str, Array]:
        """Room for the keys and values of ``max_length`` tokens a sequence; pass it as ``past_key_values``.

        Raises:
            InputError: the model sees later tokens too, or has fewer positions.
        """
        del encoder_outputs  # cross-attention computes its keys anew
        if not (self.spec.is_decoder or self.spec.causal_only):
            raise InputError("init_cache: the model sees later tokens too, so nothing can be cached")
        if max_length > self.spec.max_tokens:
            raise InputError(f"max_length={max_length}: the model has positions for {self.spec.max_tokens} tokens")
        return empty_cache(self.spec, batch_size, max_length, self.dtype)

    @property
    def compiler_options(self) -> dict[str, Any]:
        """For ``jax.jit(..., compiler_options=...)`` around calls of one's own; see :mod:`xlm.backends.flax.compiling`."""
        return compiler_options(self.dtype)

    @property
    def module(self) -> Any:
        """The NNX module with the model's parameters: ``model.module.answer(call)`` is what a call computes."""
        return nnx.merge(self.graph, self._stacked(None))

    # -- parameters ---------------------------------------------------------------------------------------------------

    def _stacked(self, params: Any) -> Stacked:
        if params is None:
            if self._params is None:
                raise InputError("params: the model was made with _do_init=False and holds none; give them to the call")
            return self._params
        return params if isinstance(params, nnx.State) else self.slots.stack(_plain(params))

    @property
    def family(self) -> Family:
        """The record of the model's family."""
        return family_of(self.config)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as the reference's nested dictionary: new slices at each reading, a dictionary a layer."""
        return self.slots.unstack(self._stacked(None))

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        self.set_stacked(self._stacked(params))

    @property
    def stacked(self) -> Stacked:
        """The parameters as the model computes with them: layers along the first axis."""
        return self._stacked(None)

    def set_stacked(self, params: Stacked) -> None:
        """Take over parameters in the stacked form."""
        self._params = params

    def stack(self, params: Mapping[str, Any]) -> Stacked:
        """The nested dictionary in the form in which the model computes: a pytree to train with."""
        return self._stacked(params)

    def unstack(self, params: Stacked) -> dict[str, Any]:
        """The nested dictionary of stacked parameters, or of their gradients."""
        return self.slots.unstack(params)

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The paths of the nested dictionary."""
        return {slot.nested for slot in self.slots.all}

    @property
    def params_shape_tree(self) -> dict[str, Any]:
        """The nested dictionary with shapes in place of arrays."""
        shapes = {s.nested: s.shape[::-1] if s.transposed else s.shape for s in self.slots.all}
        return weights.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()})

    def init_weights(
        self, rng: Any, input_shape: tuple[int, ...] = (1, 1), params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fresh parameters as a nested dictionary; of ``params`` what is there stays, what is missing is drawn."""
        del input_shape
        fresh = self.slots.unstack(nnx.State(weights.unflatten(self.slots.fresh(rng))))
        if params is None:
            return fresh
        kept = dict(weights.flatten(_plain(params)))
        return weights.unflatten({path: kept.get(path, leaf) for path, leaf in weights.flatten(fresh)})

    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.slots.shapes.values())

    def _cast(self, params: Any, dtype: Any, mask: Any) -> Any:
        def one(leaf: Any, chosen: Any = True) -> Any:
            return leaf.astype(dtype) if chosen and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(one, params) if mask is None else jax.tree.map(one, params, mask)

    def to_bf16(self, params: Any, mask: Any = None) -> Any:
        """Parameters as bfloat16; ``mask``, a tree of booleans, chooses which. The model itself stays as it is."""
        return self._cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Any, mask: Any = None) -> Any:
        """Parameters as float16."""
        return self._cast(params, jnp.float16, mask)

    def to_fp32(self, params: Any, mask: Any = None) -> Any:
        """Parameters as float32."""
        return self._cast(params, jnp.float32, mask)

    def shard(self, mesh: jax.sharding.Mesh, rules: Mapping[str, str | None] | None = None) -> Self:
        """Place the parameters on a mesh, whose axes the compiler then fills in; returns the model.

        ``model.mesh`` is the mesh to place batches on. See :func:`xlm.backends.flax.sharding.shardings`.
        """
        self.mesh = sharding.automatic(mesh)
        self.set_stacked(jax.device_put(self.stacked, self.shardings(self.mesh, rules)))
        return self

    def shardings(self, mesh: jax.sharding.Mesh, rules: Mapping[str, str | None] | None = None) -> Stacked:
        """The sharding of each parameter in the stacked form: what ``jit`` wants as ``in_shardings``."""
        return sharding.shardings(self.graph, self.slots.shapes, mesh, rules)

    # -- training -----------------------------------------------------------------------------------------------------

    def enable_gradient_checkpointing(self) -> None:
        """Recompute layers in the backward pass instead of keeping their activations (``remat``)."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations again."""
        self.gradient_checkpointing = False

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a head that can continue text."""
        return False

    # -- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Self:
        """A model with fresh weights."""
        return cls(config, **kwargs)

    @classmethod
    def _from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Self:
        return cls(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, dtype: Any = jnp.float32, **kwargs: Any
    ) -> Any:
        """Load a model from a folder or hub name, whichever program wrote it: safetensors, PyTorch, TensorFlow or Flax.

        Args:
            pretrained_model_name_or_path: a folder, else a hub name; ``None`` with ``config`` and ``state_dict``.
            dtype: in which the model computes.
            param_dtype: of the parameters: float32 unless given, ``"auto"`` keeps the file's.
            config, state_dict: a config, of which a copy is taken, or the folder of one; published names -> arrays.
            from_pt: accepted; formats are found out.
            variant: of the weights: ``"fp16"`` reads ``model.fp16.safetensors``.
            seed: of what a new head draws.
            _do_init: ``False`` returns ``(model, params)``, the model holding none.
            ignore_mismatched_sizes: start tensors of another shape fresh instead of raising.
            output_loading_info: also return the report as a dictionary.
            strict_finite: refuse NaN and infinite weights, of which else a warning tells.
            Hub options (``revision``, ``cache_dir``, ``token``, ``local_files_only``, ``subfolder``, ``force_download``),
            and any config field, which overrides the file's.

        Raises:
            ArgumentError: a keyword is none of these; names it.
            CheckpointError: no such checkpoint, damaged or unsafe files, tensors missing or of another shape.
            ConfigError: an option or config value is impossible.
        """
        return weights.load(cls, pretrained_model_name_or_path, dtype=dtype, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        params: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config, weights and a model card; all or nothing.

        Args:
            params: to be written instead of the model's own.
            push_to_hub: upload what was written to ``repo_id``, by default the folder's name; ``token`` and ``kwargs`` are of
                the upload.
            safe_serialization: ``True`` writes safetensors that every framework reads, in shards past ``max_shard_size``;
                ``False`` writes ``flax_model.msgpack`` as the reference does.
            variant: ``"fp16"`` writes ``model.fp16.safetensors``, which :meth:`from_pretrained` finds by the same word.

        Raises:
            ArgumentError: an unknown argument.
            OutputError: the folder cannot be written or the disk is full; what was there before is intact.
        """
        upload, folder = take_upload(type(self), {**kwargs, "token": token}, push_to_hub), Path(save_directory)
        before = stamps(folder)
        weights.save(self, folder, self._stacked(params), max_shard_size, safe_serialization, variant)
        if push_to_hub:
            push_saved(folder, before, upload)


class _PADS:
    """What a padded batch asks of a module: states, no head."""

    choices, packs, compares, label_kind, clamps = False, False, (), "", False


class _PACKS(_PADS):
    packs = True


def _plain(params: Any) -> dict[str, Any]:
    """Nested parameters of whichever mapping type as dictionaries."""
    return weights.unflatten(dict(weights.flatten(params)))
