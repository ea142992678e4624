"""Whether modules are still what something was made from: the same parts, numbers and settings, and nothing that looks on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as nn_module


def stamp(*tensors: Tensor | None) -> tuple[tuple[int, int], ...]:
    """What changes when numbers are replaced, moved or changed in place (but not through ``.data``)."""
    return tuple(
        (0, 0) if t is None else (t.data_ptr(), 0 if t.is_inference() else t._version)  # others count no changes
        for t in tensors
    )


class Watch:
    """Notes what modules consist of.

    Args:
        modules: all whose own call is left out, parts of each other or not.
        settings: attributes that may be set anew, as (object, name).
    """

    def __init__(self, modules: Sequence[nn.Module], settings: Iterable[tuple[Any, str]] = ()) -> None:
        self._own = [module.__dict__ for module in modules]
        self._hooks = [h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks)]
        self._links = [
            (held, list(held.items())) for module in modules for held in (module._modules, module._parameters) if held
        ]
        self._settings = [(thing.__dict__, name, thing.__dict__.get(name)) for thing, name in settings]
        tensors = [p for module in modules for p in module._parameters.values() if p is not None]
        self._places = [p.data_ptr for p in tensors]
        self._counted = [p for p in tensors if not p.is_inference()]
        self._then = self._now()

    def _now(self) -> tuple[list[int], list[int]]:
        return [place() for place in self._places], [p._version for p in self._counted]

    def same(self) -> bool:
        """Whether nothing has changed."""
        for held, then in self._links:
            if len(held) != len(then):
                return False
            for name, value in then:
                if held.get(name) is not value:
                    return False
        return all(held.get(name) is value for held, name, value in self._settings) and self._now() == self._then

    def watched(self) -> bool:
        """Whether a hook or another ``forward`` wants to be called."""
        return (
            any(self._hooks)
            or bool(nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
            or any("forward" in own for own in self._own)
        )
