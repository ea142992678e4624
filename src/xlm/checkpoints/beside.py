"""The small files beside a model's weights, which go wherever the weights go: vocabulary, settings, further heads."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from xlm.atomic import make_folder, write_bytes
from xlm.errors import OutputError
from xlm.hub import HEADS, MODULE_FOLDERS, WEIGHTS, is_side_file

# What says how the weights are laid out is written with them; `dict.txt` is fairseq's.
_OF_WEIGHTS = ("config.json", "dict.txt")
# What is read together with weights, or in their stead, if it lies in their folder.
_READ = (
    *("config.json", "dict.txt", "codes", "sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", *HEADS, MODULE_FOLDERS),
    *(pattern for kind in WEIGHTS for pattern in kind),
)


def names_beside(source: Path) -> list[str]:
    """The files and folders in ``source`` that :func:`copy_beside` copies, sorted."""
    return [
        path.name
        for path in sorted(source.iterdir())
        if (path.is_dir() and fnmatch(path.name, MODULE_FOLDERS))
        or (path.is_file() and is_side_file(path.name) and path.name not in _OF_WEIGHTS)
    ]


def need_own(folder: Path, source: Path, written: Collection[str], argument: str = "dst") -> None:
    """Look whether a model written to ``folder`` will be alone there: what is there already must be among the names and
    patterns of ``written``, or nothing that is read with a model. The folder that the model comes from may hold anything.

    Raises:
        OutputError: another model's files would stay and be read with the new weights; names them.
    """
    if not folder.is_dir() or folder.resolve() == source.resolve():
        return
    there = [path.name for path in sorted(folder.iterdir()) if any(fnmatch(path.name, one) for one in _READ)]
    left = [name for name in there if not any(fnmatch(name, one) for one in written)]
    if left:
        raise OutputError(
            f"{argument}={str(folder)!r} holds files of another model that would be read with this one: {', '.join(left)}: "
            "move them away, or name another folder; nothing was written"
        )


def copy_beside(source: Path, folder: Path, skip: Collection[str] = ()) -> None:
    """Copy what lies beside the weights in ``source`` to ``folder``, but for its config and the names in ``skip``.

    These are the files of tokenizers, special tokens, generation settings, the modules and prompts of
    sentence-transformers, bge-m3's heads, the model's card and licence.

    Raises:
        OutputError: a file cannot be written.
    """
    if source.resolve() == folder.resolve():
        return
    for path in (source / name for name in names_beside(source)):
        if path.is_dir():
            inner = make_folder(folder / path.name)
            for file in sorted(one for one in path.iterdir() if one.is_file()):
                write_bytes(inner / file.name, file.read_bytes())
        elif path.name not in skip:
            write_bytes(folder / path.name, path.read_bytes())
