"""What every model can do beside computing: initialise, load, save, export, compile and fit, resize, prune."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import tensorflow as tf

from xlm.backends.keras import saved, weights
from xlm.backends.keras.batching import dataset_of
from xlm.backends.keras.calls import PLAIN, Box, arguments
from xlm.backends.keras.ops import Table, Tensor
from xlm.errors import ConfigError, InputError
from xlm.families.config import PretrainedConfig
from xlm.families.registry import Family, family_of
from xlm.families.spec import EncoderSpec
from xlm.publish import Published, push_saved, stamps, take_upload

# What a head's labels are called, and which of its outputs they belong to.
LABELS = {"labels": "logits", "start_positions": "start_logits", "end_positions": "end_logits"}


class TFPreTrainedModel(keras.Model, Published):
    """Base of all TensorFlow models.

    Weights exist from construction on. In memory every family carries XLM-R's tensor names; :meth:`save_pretrained` writes
    the family's published names, so its files open in every framework and in ``transformers``.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    base_model_prefix: ClassVar[str] = "roberta"
    main_input_name: ClassVar[str] = "input_ids"
    new_head: ClassVar[tuple[str, ...]] = ()
    """Prefixes of head tensors that a checkpoint may lack: they start fresh and the report says so."""

    def __init__(self, config: PretrainedConfig, **kwargs: Any) -> None:
        """Args:
        config: of the model's family.
        dtype, name, trainable: of every Keras model; ``dtype`` may be a policy such as ``"mixed_bfloat16"``.
        """
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"config={type(config).__name__}: {type(self).__name__} needs a {self.config_class.__name__}"
            )
        super().__init__(**kwargs)
        # Arguments are named and made tensors here, in __call__: Keras would also round float labels to half precision.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.config = config
        self.spec: EncoderSpec = family_of(config).spec(config)
        self.warnings_issued: dict[str, bool] = {}

    @staticmethod
    def family_of(config: PretrainedConfig) -> Family:
        """The record of a config's family."""
        return family_of(config)

    @property
    def family(self) -> Family:
        """The record of the model's family."""
        return family_of(self.config)

    def trunk(self) -> Any:
        """The model without its head; a method, because Keras would save what properties return once more."""
        return getattr(self, self.base_model_prefix, self)

    def finish(self) -> None:
        """End construction: the layers are there; give them values unless a file will."""
        self.built = True
        if not weights.FILLING.get():
            self.init_weights()

    def init_weights(self, names: Any = None) -> None:
        """Initialise weights (all, or those named) as the papers' code does: normal tables and kernels, zero biases."""
        weights.initialise(self, names)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call with keywords, a list of arrays in order, or one mapping; see ``call``."""
        given = arguments(type(self).call, args, kwargs)
        if "cache" in given:
            given["cache"] = Box(given["cache"])
        return super().__call__(
            {name: value for name, value in given.items() if name not in PLAIN},
            **{name: value for name, value in given.items() if name in PLAIN},
        )

    # -- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None, **kwargs: Any) -> Any:
        """A model with fresh weights, from its config or from what :meth:`get_config` gave to Keras."""
        del custom_objects
        if isinstance(config, Mapping):
            kwargs = {**{k: v for k, v in config.items() if k != "config"}, **kwargs}
            config = cls.config_class.from_dict(dict(config["config"]))
        return cls(config, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """What Keras needs to build the model again."""
        return {"config": self.config.to_dict(), "name": self.name, "dtype": self.dtype_policy.name}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model from a folder or a hub name; see :func:`xlm.backends.keras.weights.load`."""
        return weights.load(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config, weights and a model card; all or nothing.

        Args:
            saved_model: also export ``saved_model/<version>`` for TensorFlow Serving.
            max_shard_size: of the safetensors files.
            safe_serialization: ``False`` writes the historic ``tf_model.h5`` instead of safetensors.
            push_to_hub: upload what was written to ``repo_id``, by default the folder's name; ``kwargs`` are of the upload.
            variant: ``"fp16"`` writes ``model.fp16.safetensors``, which :meth:`from_pretrained` finds by the same word.

        Raises:
            ArgumentError: an unknown argument.
            OutputError: the folder cannot be written or the disk is full; what was there before is intact.
        """
        upload, folder = take_upload(type(self), kwargs, push_to_hub), Path(save_directory)
        before = stamps(folder)
        weights.save(self, folder, max_shard_size, safe_serialization, variant)
        if saved_model:
            self.export(folder / "saved_model" / str(version))
        if push_to_hub:
            push_saved(folder, before, upload)

    def export(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, filepath: str | os.PathLike[str], format: str = "tf_saved_model", **kwargs: Any
    ) -> None:
        """Write a SavedModel that TensorFlow runs without this library; see :func:`xlm.backends.keras.saved.export`."""
        if format != "tf_saved_model":
            super().export(filepath, format=format, **kwargs)
            return
        saved.export(self, Path(filepath), **kwargs)

    # -- properties ---------------------------------------------------------------------------------------------------

    def named_weights(self) -> dict[str, weights.Weight]:
        """The weights by their names in memory, those of XLM-R in every family; tied ones once."""
        return dict(weights.walk(self))

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, tied ones once."""
        counted = (
            w.variable
            for w in self.named_weights().values()
            if not (exclude_embeddings and isinstance(w.layer, Table)) and (w.variable.trainable or not only_trainable)
        )
        return sum(v.shape.num_elements() if hasattr(v.shape, "num_elements") else _count(v.shape) for v in counted)

    def get_input_embeddings(self) -> Table:
        """The word table; its ``weight`` is (vocab, hidden)."""
        return self.trunk().embeddings.word_embeddings

    def get_output_embeddings(self) -> Any:
        """The layer that scores the vocabulary, or ``None``."""
        return None

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the values of the word table, whose rows are the vocabulary from now on; a tied head follows.

        Args:
            value: (vocab, hidden): a layer with such a ``weight``, a variable or an array.

        Raises:
            InputError: another width, or no row for padding.
        """
        rows: Any = tf.convert_to_tensor(getattr(value, "weight", value))
        hidden, pad = self.spec.hidden_size, self.spec.pad_id
        if rows.shape.rank != 2 or rows.shape[1] != hidden or rows.shape[0] <= pad:
            raise InputError(
                f"value: a table of shape {tuple(rows.shape)}; must be (more than {pad}, the padding id, {hidden})"
            )
        if rows.shape[0] != self.get_input_embeddings().weight.shape[0]:
            if self.get_output_embeddings() is self.get_input_embeddings():
                self._resize_head(rows.shape[0])
            self._put_words(rows.shape[0])
        self.get_input_embeddings().weight.assign(rows)

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the values of the layer that scores the vocabulary; where it is tied, of the word table.

        Raises:
            InputError: the model scores no vocabulary, or the shape is another than the layer's.
        """
        layer = self.get_output_embeddings()
        if layer is None:
            raise InputError(f"set_output_embeddings: {type(self).__name__} has no output embeddings")
        rows: Any = tf.convert_to_tensor(getattr(value, "weight", value))
        if layer is self.get_input_embeddings():
            self.set_input_embeddings(rows)
            return
        wanted = (self.spec.vocab_size, self.spec.hidden_size)
        if tuple(rows.shape) != wanted:
            raise InputError(f"value: a decoder of shape {tuple(rows.shape)}; must be {wanted}")
        if rows.shape[0] != layer.weight.shape[0]:
            self._resize_head(rows.shape[0])
        self.get_output_embeddings().weight.assign(rows)

    def _put_words(self, count: int) -> Table:
        """A word table of ``count`` rows in the old one's place, with its values as far as they go."""
        old = self.get_input_embeddings()
        table = Table(count, self.spec.hidden_size, old.name, self.dtype_policy, old.pad)
        self._fill_rows(table.weight, old.weight)
        self.trunk().embeddings.word_embeddings = table
        for model in (self, self.trunk()):
            model.config.vocab_size = count
            model.spec = family_of(model.config).spec(model.config)
        return table

    def resize_token_embeddings(self, new_num_tokens: int | None = None) -> Table:
        """Give the word table (and the head) another number of rows; kept rows stay bit-identical.

        Compile the model again afterwards: an optimizer knows the old weights.

        Raises:
            InputError: the number does not reach beyond the padding id, or the head is an adaptive softmax.
        """
        old = self.get_input_embeddings()
        if new_num_tokens is None or new_num_tokens == old.weight.shape[0]:
            return old
        if new_num_tokens <= self.spec.pad_id:
            raise InputError(f"new_num_tokens={new_num_tokens}: must be above the padding id {self.spec.pad_id}")
        self._resize_head(new_num_tokens)
        return self._put_words(new_num_tokens)

    def _fill_rows(self, new: Any, old: Any) -> None:
        kept = min(new.shape[0], old.shape[0])
        fresh: Any = keras.random.normal((new.shape[0] - kept, new.shape[1]), stddev=self.spec.embedding_init_std)
        new.assign(tf.concat([old.value[:kept], tf.cast(fresh, old.dtype)], axis=0))

    def _resize_head(self, count: int) -> None:
        """Resize what has a row a token beside the word table."""

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove attention heads: ``{layer: [heads]}``; noted in the config, so that loading knows."""
        known = {int(k): set(v) for k, v in self.config.pruned_heads.items()}
        layers = self.trunk().encoder.layer
        for number, chosen in heads_to_prune.items():
            if not 0 <= int(number) < len(layers):
                raise InputError(f"layer {number}: the model has layers 0 to {len(layers) - 1}")
            layers[int(number)].attention.prune_heads(set(chosen))
            known[int(number)] = known.get(int(number), set()) | set(chosen)
        self.config.pruned_heads = {k: sorted(v) for k, v in known.items()}

    def can_generate(self) -> bool:
        """Whether the model has a head that can continue text."""
        return False

    def warn_once(self, key: str, message: str) -> None:
        """Warn the first time only."""
        if key not in self.warnings_issued:
            self.warnings_issued[key] = True
            warnings.warn(message, stacklevel=3)

    # -- data, compile and fit ----------------------------------------------------------------------------------------------

    def prepare_tf_dataset(
        self,
        dataset: Any,
        batch_size: int = 8,
        shuffle: bool = True,
        tokenizer: Any = None,
        collate_fn: Any = None,
        collate_fn_args: Mapping[str, Any] | None = None,
        drop_remainder: bool | None = None,
        prefetch: bool = True,
    ) -> tf.data.Dataset:
        """Batches for :meth:`fit`: inputs by name and, where there are any, labels beside them.

        Args:
            dataset: a data set of the package ``datasets``, or a mapping of columns, lists of a value a row. Columns that are
                no argument of the model are left out; ``label`` and ``label_ids`` are ``labels``.
            shuffle: a new order each epoch; ``keras.utils.set_random_seed`` makes it repeatable.
            tokenizer: pads the rows of a batch to the longest, labels of tokens with -100; without one they must be of
                one length.
            collate_fn: rows -> columns of a batch, instead of that; ``collate_fn_args`` go with the rows.
            drop_remainder: leave out a last, smaller batch; ``None``: where the rows are shuffled.
            prefetch: make batches ahead.

        Raises:
            InputError: no column is an argument of the model, columns or rows differ in length, or there is no batch.
        """
        return dataset_of(
            self, dataset, batch_size, shuffle, tokenizer, collate_fn, collate_fn_args, drop_remainder, prefetch
        )

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """As ``keras.Model.compile``; without a ``loss``, ``fit`` and ``evaluate`` use the head's own.

        Labels then stand among the inputs under their documented names (``labels``, ``start_positions``, ...) or are given
        as Keras gives them, beside the inputs. A Keras loss sees logits: ``from_logits=True``.
        """
        if loss == "passthrough":  # an older spelling of "none"
            loss = None
        self._compile_loss = None  # of an earlier compile, which Keras would keep
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def train_step(self, data: Any) -> Any:
        """One step; see :meth:`compile`."""
        return super().train_step(self._labelled(data))

    def test_step(self, data: Any) -> Any:
        """One evaluation; see :meth:`compile`."""
        return super().test_step(self._labelled(data))

    def predict_step(self, data: Any) -> Any:
        """The outputs of one batch, without a loss."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if isinstance(x, Mapping):
            x = {name: value for name, value in x.items() if name not in LABELS}
        return self(x, training=False)

    def _labelled(self, data: Any) -> Any:
        """The data with labels where the loss looks for them: among the inputs of a head, else beside them."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        x = dict(x) if isinstance(x, Mapping) else arguments(type(self).call, (x,), {})
        if self._compile_loss is None and y is not None:
            x.update(self._by_label(y))
        elif y is None:
            inside = {name: x[name] for name in LABELS if name in x}
            y = next(iter(inside.values())) if len(inside) == 1 else inside or None
        return x, y, weight

    def _by_label(self, y: Any) -> dict[str, Any]:
        names = [name for name in LABELS if name in _parameters(self)]
        if isinstance(y, Mapping):
            logits: dict[Any, str] = {LABELS[name]: name for name in names}
            return {logits.get(key, str(key)): value for key, value in y.items()}
        if len(names) == 1:
            return {names[0]: y}
        return dict(zip(names, y, strict=True))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The mean of the head's own losses, or the compiled loss of the logits.

        Raises:
            InputError: no loss and no labels, or sample weights for a head whose loss is one number for all tokens.
        """
        if self._compile_loss is not None:
            return super().compute_loss(x, *_matched(y, y_pred), sample_weight, training)
        own = getattr(y_pred, "loss", None)
        if own is None:
            raise InputError(f"{type(self).__name__}: no loss in compile() and no labels in the data")
        if sample_weight is not None:
            if "logits" in y_pred and y_pred["logits"].shape.rank == 3:
                raise InputError(
                    "sample_weight: the head's own loss is one mean over all tokens; leave tokens out by labels of -100, or "
                    "name a Keras loss in compile(), which weighs each"
                )
            own = own * tf.reshape(tf.cast(sample_weight, own.dtype), tf.shape(own))
        total = tf.add_n([tf.reduce_mean(own), *(tf.cast(more, own.dtype) for more in self.losses)])
        # Keras sums over replicas.
        return total / tf.distribute.get_strategy().num_replicas_in_sync

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The compiled metrics of the logits."""
        return super().compute_metrics(x, *_matched(y, y_pred), sample_weight)


def _count(shape: Any) -> int:
    return int(tf.TensorShape(shape).num_elements() or 0)


def _parameters(model: Any) -> Any:
    import inspect

    return inspect.signature(model.call).parameters


def _matched(y: Any, output: Any) -> tuple[Any, Any]:
    """Labels and the logits that they belong to, as Keras' losses and metrics take them."""
    found: dict[str, Tensor] = {name: output[name] for name in LABELS.values() if name in output}
    if len(found) == 1:
        (logits,) = found.values()
        return y, logits
    if isinstance(y, Mapping):
        y = {LABELS.get(name, name): value for name, value in y.items()}
        return {name: y[name] for name in found if name in y}, found
    if isinstance(y, list | tuple):
        return dict(zip(found, y, strict=True)), found
    return y, found


__all__ = ["LABELS", "TFPreTrainedModel"]
