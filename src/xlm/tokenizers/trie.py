"""The double array that SentencePiece keeps its character map in (darts-clone's layout: one 32-bit unit a node).

A node is named by the index that its children are found from: the child by ``byte`` is at ``node ^ byte``, and exists if
the unit there carries that byte as its label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xlm.errors import CheckpointError

Nodes = NDArray[np.uint32]
_CODES = 0x110000
_MOST = 1 << 21
# Leading bytes of UTF-8, the length of the character and the bits of the leading byte that belong to it.
_LEADS = ((0x00, 0x80, 1, 0x7F), (0xC2, 0xE0, 2, 0x1F), (0xE0, 0xF0, 3, 0x0F), (0xF0, 0xF5, 4, 0x07))
_FIRST_OF_WIDTH = (0, 0, 0x80, 0x800, 0x10000)


def _bytes(low: int, high: int) -> Nodes:
    return np.arange(low, high, dtype=np.uint32)


class DoubleArray:
    """Keys to values below 2^31, read-only."""

    def __init__(self, units: NDArray[np.uint32], name: str) -> None:
        self._units, self._name = units, name
        self.root = self._after(int(units[0]))

    @staticmethod
    def _after(unit: int) -> int:
        return (unit >> 10) << ((unit & 512) >> 6)

    def prefixes(self, key: bytes) -> list[tuple[int, int]]:
        """``(bytes matched, value)`` of every entry that ``key`` begins with, the shortest first."""
        units, found, node = self._units, [], self.root
        for size, byte in enumerate(key, 1):
            node ^= byte
            if node >= len(units):
                break
            unit = int(units[node])
            if unit & 0x800000FF != byte:
                break
            node ^= self._after(unit)
            if unit & 256 and node < len(units):
                found.append((size, int(units[node]) & 0x7FFFFFFF))
        return found

    def _step(self, nodes: Nodes, labels: Nodes) -> tuple[NDArray[np.int64], Nodes, Nodes, Nodes]:
        """Every child of ``nodes`` by one of ``labels``: ``(place of the parent, label, node, unit)``."""
        parts: list[tuple[NDArray[np.int64], Nodes, Nodes, Nodes]] = []
        total = 0
        for low in range(0, max(1, len(nodes)), 4096):
            child = nodes[low : low + 4096, None] ^ labels
            inside = child < len(self._units)
            unit = self._units[np.where(inside, child, 0)]
            parent, label = np.nonzero(inside & ((unit & np.uint32(0x800000FF)) == labels))
            unit, child = unit[parent, label], child[parent, label]
            node = child ^ ((unit >> np.uint32(10)) << ((unit & np.uint32(512)) >> np.uint32(6)))
            parts.append((parent + low, labels[label], node, unit))
            total += len(node)
            if total > _MOST:
                raise CheckpointError(f"{self._name}: the character map has more than {_MOST:,} ways to go on")
        parents, found, after, units = zip(*parts, strict=True)
        return np.concatenate(parents), np.concatenate(found), np.concatenate(after), np.concatenate(units)

    def characters(self, nodes: Nodes) -> tuple[NDArray[np.int64], Nodes, Nodes, NDArray[np.int32]]:
        """Every way on by one character: ``(place of the parent, code point, node, value or -1)``."""
        parts: list[tuple[NDArray[np.int64], Nodes, Nodes, NDArray[np.int32]]] = []
        for low, high, width, bits in _LEADS:
            parent, label, node, unit = self._step(nodes, _bytes(low, high))
            code = label & np.uint32(bits)
            for _ in range(width - 1):
                above, label, node, unit = self._step(node, _bytes(0x80, 0xC0))
                parent, code = parent[above], code[above] << np.uint32(6) | label & np.uint32(0x3F)
            leaf = ((unit & np.uint32(256)) != 0) & (node < len(self._units))
            value = self._units[np.where(leaf, node, 0)] & np.uint32(0x7FFFFFFF)
            real = (code >= _FIRST_OF_WIDTH[width]) & (code < _CODES) & ((code < 0xD800) | (code > 0xDFFF))
            kept = np.where(leaf, value.astype(np.int32), np.int32(-1))
            parts.append((parent[real], code[real], node[real], kept[real]))
        parents, codes, after, values = zip(*parts, strict=True)
        return np.concatenate(parents), np.concatenate(codes), np.concatenate(after), np.concatenate(values)
