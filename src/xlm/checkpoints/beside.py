"""The small files beside a model's weights, which go wherever the weights go: vocabulary, settings, further heads."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from xlm.atomic import make_folder, write_bytes
from xlm.checkpoints.shards import safe_member
from xlm.errors import OutputError
from xlm.hub import HEADS, MODULE_FOLDERS, TOKENIZER_FILES, WEIGHTS

# What is read together with weights, whatever their layout. What says how they are laid out is written with them.
_SETTINGS = (
    *(*TOKENIZER_FILES, *HEADS, "generation_config.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
)
_PAPERS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt")
_MODULE_FILES = ("config.json",)
# What is read with weights, or in their stead, if it lies in their folder; `dict.txt` is fairseq's.
_READ = (
    *("config.json", "dict.txt", "codes", *_SETTINGS, MODULE_FOLDERS),
    *(pattern for kind in WEIGHTS for pattern in kind),
)


def names_beside(source: Path) -> list[str]:
    """The files in ``source`` that :func:`copy_beside` copies: known names alone, those of modules with their folder.

    Raises:
        CheckpointError: one is a link that leads out of the folder (other than into the blobs of a Hub cache): what lies
            there need not be the model's, and a copy of it may be published.
    """
    names = [name for name in (*_SETTINGS, *_PAPERS) if (source / name).is_file()]
    for folder in sorted(path for path in source.glob(MODULE_FOLDERS) if path.is_dir()):
        names += [f"{folder.name}/{name}" for name in _MODULE_FILES if (folder / name).is_file()]
    for name in names:
        safe_member(source, name, source, "file")
    return names


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
    """Copy what belongs to the weights in ``source`` to ``folder``, but for its config and the names in ``skip``.

    These are the files of tokenizers, special tokens, generation settings, the modules and prompts of
    sentence-transformers, bge-m3's heads, the model's card and licence.

    Raises:
        CheckpointError: a link that leads out of ``source``.
        OutputError: a file cannot be written.
    """
    if source.resolve() == folder.resolve():
        return
    for name in names_beside(source):
        if name in skip:
            continue
        make_folder((folder / name).parent)
        write_bytes(folder / name, (source / name).read_bytes())
