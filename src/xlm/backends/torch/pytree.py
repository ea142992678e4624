"""Tell PyTorch how to take outputs apart, so that they pass through ``torch.export``, ``torch.compile`` and DDP."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree

from xlm import outputs


def _register(cls: type[outputs.ModelOutput]) -> None:
    def flatten(value: Any) -> tuple[list[Any], Any]:
        return list(value.to_tuple()), tuple(value.keys())

    def flatten_with_keys(value: Any) -> tuple[list[Any], Any]:
        return [(_pytree.MappingKey(k), v) for k, v in zip(value.keys(), value.to_tuple(), strict=True)], tuple(
            value.keys()
        )

    def unflatten(values: Any, keys: Any) -> Any:
        return cls(**dict(zip(keys, values, strict=True)))

    _pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        serialized_type_name=f"xlm.outputs.{cls.__name__}",
        flatten_with_keys_fn=flatten_with_keys,  # type: ignore[arg-type]
    )


for _cls in outputs.ModelOutput.__subclasses__():
    _register(_cls)
