"""The small files beside a model's weights, which go wherever the weights go: vocabulary, settings, further heads."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from xlm.atomic import make_folder, write_bytes
from xlm.hub import MODULE_FOLDERS, is_side_file

# What says how the weights are laid out is written with them; `dict.txt` is fairseq's.
_OF_WEIGHTS = ("config.json", "dict.txt")


def copy_beside(source: Path, folder: Path, skip: Collection[str] = ()) -> None:
    """Copy what lies beside the weights in ``source`` to ``folder``, but for its config and the names in ``skip``.

    These are the files of tokenizers, special tokens, generation settings, the modules and prompts of
    sentence-transformers, bge-m3's heads, the model's card and licence.

    Raises:
        OutputError: a file cannot be written.
    """
    if source.resolve() == folder.resolve():
        return
    for path in sorted(source.iterdir()):
        if path.is_dir() and fnmatch(path.name, MODULE_FOLDERS):
            inner = make_folder(folder / path.name)
            for file in sorted(one for one in path.iterdir() if one.is_file()):
                write_bytes(inner / file.name, file.read_bytes())
        elif path.is_file() and is_side_file(path.name) and path.name not in (*_OF_WEIGHTS, *skip):
            write_bytes(folder / path.name, path.read_bytes())
