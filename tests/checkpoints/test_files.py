"""safetensors files: round trips, exchange with the reference package, and every way a file can lie."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xlm.checkpoints import tensorfile
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.dtypes import CODES
from xlm.checkpoints.files import open_checkpoint, save_safetensors
from xlm.checkpoints.tensorfile import MAX_HEADER
from xlm.checkpoints.writer import INDEX, parse_size
from xlm.errors import CheckpointError, InputError, OutputError


def craft(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([d for d in CODES.values() if d.type.__module__ == "numpy" and d.kind != "c"]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        ),
        max_size=5,
    )
)
def test_round_trip_and_exchange(tmp_path_factory, arrays):
    import safetensors.numpy

    folder = tmp_path_factory.mktemp("round")
    tensors = {f"t.{i}": array for i, array in enumerate(arrays)}
    save_safetensors(folder / "model.safetensors", tensors)
    ours = open_checkpoint(folder)
    theirs = safetensors.numpy.load_file(folder / "model.safetensors")
    assert ours.names == list(tensors) and set(theirs) == set(tensors) and ours.metadata == {"format": "pt"}
    for name, array in tensors.items():
        for back in (ours[name], theirs[name]):
            assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert all(open_checkpoint(folder)[name].tobytes() == array.tobytes() for name, array in tensors.items())


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_dtype_survives_and_torch_reads_it(tmp_path, code):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    array = np.arange(8).reshape(2, 4).astype(CODES[code])
    save_safetensors(tmp_path, {"x": array})
    back = open_checkpoint(tmp_path)["x"]
    assert back.dtype == array.dtype and back.tobytes() == array.tobytes()
    back[...] = array[::-1]  # a view may be written to; the file does not change
    assert open_checkpoint(tmp_path)["x"].tobytes() == array.tobytes()
    theirs = load_file(tmp_path / "model.safetensors")["x"]
    assert theirs.contiguous().view(torch.uint8).numpy().tobytes() == array.tobytes()
    save_file({"x": theirs}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path)["x"].dtype == array.dtype


BAD = {
    "header longer than the file": (b"{}", b"", 1000, "claims a header of 1000 bytes, but only 2"),
    "header over the cap": (b"{}", b"", MAX_HEADER + 1, f"the limit is {MAX_HEADER}"),
    "header of 2**63": (b"{}", b"", 2**63, f"the limit is {MAX_HEADER}"),
    "truncated": ({"a": entry([4], 0, 16)}, b"\0" * 15, None, "truncated: the tensors need 16 bytes, the file has 15"),
    "overlap": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12, None, "'b' overlaps tensor 'a'"),
    "hole": ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, b"\0" * 20, None, "'b' leaves a hole after tensor 'a'"),
    "hole first": ({"a": entry([2], 4, 12)}, b"\0" * 12, None, "'a' leaves a hole after the header"),
    "tail": ({"a": entry([2], 0, 8)}, b"\0" * 9, None, "1 bytes follow tensor 'a'"),
    "overflow": ({"a": entry([2**32, 2**32], 0, 8)}, b"\0" * 8, None, "'a'.*overflows 64 bits"),
    "overflow behind a zero": ({"a": entry([0, 2**62, 2**62], 0, 0)}, b"", None, "'a'.*overflows 64 bits"),
    "size": ({"a": entry([3], 0, 8)}, b"\0" * 8, None, "'a'.*needs 12 bytes.*give 8"),
    "backwards": ({"a": entry([2], 8, 0)}, b"\0" * 8, None, "first <= second"),
    "negative": ({"a": entry([-2], 0, 8)}, b"\0" * 8, None, "sizes of at least 0"),
    "bool as size": ({"a": entry([True], 0, 4)}, b"\0" * 4, None, "sizes of at least 0"),
    "rank": ({"a": entry([1] * 33, 0, 4)}, b"\0" * 4, None, "at most 32 sizes"),
    "dtype": ({"a": entry([2], 0, 8, "F33")}, b"\0" * 8, None, "unknown dtype 'F33'; supported: BF16, BOOL"),
    "dtype no text": ({"a": entry([2], 0, 8, 7)}, b"\0" * 8, None, "unknown dtype 7"),
    "duplicate": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"\0",
        None,
        "'a' stands twice",
    ),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", None, "nested more than 3"),
    "deep mixed": (b'{"a":[1,' * 5000, b"", None, "nested more than 3|not JSON"),
    "many": (b"{" + b"{" * 100_010, b"", None, "limit"),
    "not JSON": (b"{nope}", b"", None, "not JSON"),
    "not UTF-8": (b'{"\xff":1}', b"", None, "not JSON"),
    "NaN": (b'{"a":NaN}', b"", None, "NaN"),
    "no object": (b"[1,2,3]", b"", None, "begins with"),
    "entry": ({"a": 3}, b"", None, "'a' needs 'dtype'"),
    "metadata": ({"__metadata__": {"format": 3}}, b"", None, "map text to text"),
    "huge number": (
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}',
        b"\0",
        None,
        "JSON|sizes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_lying_headers(tmp_path, case):
    header, data, length, said = BAD[case]
    path = craft(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(tmp_path)
    assert str(path) in str(caught.value)


def test_too_many_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "MAX_TENSORS", 1000)
    header = {f"t{i}": entry([0], 0, 0) for i in range(1001)}
    craft(tmp_path / "model.safetensors", header)
    with pytest.raises(CheckpointError, match="1001 tensors; the limit is 1000"):
        open_checkpoint(tmp_path)


@given(st.binary(max_size=200))
def test_random_bytes_never_crash(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "model.safetensors"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


@given(st.integers(0, 400), st.integers(0, 255))
def test_one_wrong_byte_is_an_error_or_harmless(tmp_path_factory, place, value):
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    save_safetensors(path, {"a.weight": np.ones((3, 4), np.float32), "b.bias": np.ones(5, np.float16)})
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = value
    path.write_bytes(raw)
    try:
        checkpoint = open_checkpoint(path)
        assert sum(checkpoint[name].nbytes for name in checkpoint) <= len(raw)
    except CheckpointError:
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"error":"Repository not found"}', "error message"),
        (b"", "empty"),
        (b"\x1f\x8b\x08\x00", "archive"),
        (b"hello world, hello world", "no known format"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_what_is_not_weights(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    if name == "model.safetensors" and said in ("archive", "no known format"):
        said = f"{said}|claims a header|8 bytes of header"
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


def test_no_checkpoint_lists_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"looked for model.safetensors, .*the folder holds notes.txt"):
        open_checkpoint(tmp_path)
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="distributed PyTorch checkpoint"):
        open_checkpoint(tmp_path)


def big(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"layer.{i}.weight": rng.standard_normal((10, 10)).astype(np.float32) for i in range(6)}


def test_shards_and_what_an_index_may_not_say(tmp_path):
    tensors = big()
    written = save_safetensors(tmp_path, tensors, max_shard_size=900)
    assert [path.name for path in written] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)] + [INDEX]
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names == list(tensors) and len(checkpoint.files) == 3
    assert all((checkpoint[name] == array).all() for name, array in tensors.items())
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 2400

    def expect(change, said):
        data = json.loads(json.dumps(index))
        change(data)
        (tmp_path / INDEX).write_text(json.dumps(data))
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(tmp_path)

    (tmp_path.parent / "outside.safetensors").write_bytes(b"x")
    (tmp_path / "link.safetensors").symlink_to(tmp_path.parent / "outside.safetensors")
    for hostile in [
        "/etc/passwd",
        "../outside.safetensors",
        "a/../../x",
        "C:\\x",
        "c:x",
        "\\\\host\\share\\x",
        "..\\x",
    ]:
        expect(lambda d, h=hostile: d["weight_map"].update({"layer.0.weight": h}), "not inside its folder")
    expect(lambda d: d["weight_map"].update({"layer.0.weight": "link.safetensors"}), "link to .*outside")
    expect(lambda d: d["weight_map"].update({"layer.0.weight": 7}), "not a file name")
    expect(lambda d: d["weight_map"].update({"layer.0.weight": "absent.safetensors"}), "not there .*absent")
    expect(
        lambda d: d["weight_map"].update({f"no.{i}": written[0].name for i in range(12)}), "lacks .*12: .* and 2 more"
    )
    expect(lambda d: d["weight_map"].pop("layer.0.weight"), "does not list .*layer.0.weight")
    expect(lambda d: d.update(weight_map=[]), "no 'weight_map'")
    (tmp_path / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"\d shards but no index"):
        open_checkpoint(tmp_path)


def test_links_inside_a_hub_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/abc"
    blobs.mkdir(parents=True)
    save_safetensors(snapshot, big(), max_shard_size=900)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    assert len(open_checkpoint(snapshot)) == 6


def test_saving_over_the_mapped_source(tmp_path):
    save_safetensors(tmp_path, big(1))
    source = open_checkpoint(tmp_path)
    save_safetensors(tmp_path, {name: source[name] for name in source})
    assert all((open_checkpoint(tmp_path)[name] == array).all() for name, array in big(1).items())
    # In shards over the file, in shards over the shards, and back: the source stays readable throughout.
    for limit in (900, 900, "5GB"):
        again = open_checkpoint(tmp_path)
        save_safetensors(tmp_path, again.entries, max_shard_size=limit)
        for checkpoint in (source, again, open_checkpoint(tmp_path)):
            assert all((checkpoint[name] == array).all() for name, array in big(1).items())
        count = 1 if limit == "5GB" else 4
        assert len(list(tmp_path.iterdir())) == count, sorted(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["5GB", 900])
def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path, limit):
    save_safetensors(tmp_path, big(2), max_shard_size=limit)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails() -> np.ndarray:
        raise KeyboardInterrupt

    bad = {**big(3), "last": Stored((2,), np.dtype(np.float32), fails)}
    with pytest.raises(KeyboardInterrupt):
        save_safetensors(tmp_path, bad, max_shard_size=limit)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_disk_full_is_seen_before_writing(tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace

    save_safetensors(tmp_path, big(2))
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50))
    with pytest.raises(OutputError, match=r"2,\d{3} bytes are needed, 50 are free"):
        save_safetensors(tmp_path, big(3))
    assert (tmp_path / "model.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_fills_while_writing(tmp_path, monkeypatch):
    import errno

    from xlm.checkpoints import writer

    save_safetensors(tmp_path, big(2))
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(stream, stored, name=""):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "write_array", full)
    with pytest.raises(
        OutputError, match=r"the disk is full; 2,\d{3} bytes are needed; what was there before is intact"
    ):
        save_safetensors(tmp_path, big(3))
    assert (tmp_path / "model.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_the_limit_on_file_sizes(tmp_path):
    import resource
    import subprocess
    import sys

    code = (
        "import numpy as np, resource; from xlm.checkpoints.files import save_safetensors\n"
        "from xlm.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try: save_safetensors({str(tmp_path)!r}, {{'a': np.zeros(1000, np.float32)}})\n"
        "except OutputError as error: print(error)"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the limit is 1,000 bytes" in done.stdout and not list(tmp_path.iterdir())


def test_modes_umask_and_links(tmp_path):
    old = os.umask(0o027)
    try:
        save_safetensors(tmp_path / "a.safetensors", {"x": np.ones(1)})
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    (tmp_path / "a.safetensors").chmod(0o604)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
    save_safetensors(tmp_path / "link.safetensors", {"y": np.ones(2)})
    assert (tmp_path / "link.safetensors").is_symlink()
    assert open_checkpoint(tmp_path / "a.safetensors").names == ["y"]
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o604


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file: a folder is needed"):
        save_safetensors(tmp_path / "file", big())
    with pytest.raises(OutputError, match="cannot be made"):
        save_safetensors(tmp_path / "file" / "below", big())
    with pytest.raises(InputError, match="given twice"):
        save_safetensors(tmp_path / "x", [("a", np.ones(1)), ("a", np.ones(1))])
    with pytest.raises(InputError, match="dtype object"):
        save_safetensors(tmp_path / "x", {"a": np.array(["text"], object)})
    with pytest.raises(InputError, match="max_shard_size"):
        save_safetensors(tmp_path / "x", big(), max_shard_size="5 boxes")
    assert parse_size("1.5GB") == 1_500_000_000 and parse_size("2MiB") == 2**21 and parse_size(7) == 7


def test_casting_streams_and_finds_bad_values(tmp_path):
    tensors = {
        "good": np.ones((3, 5), np.float32),
        "bad": np.array([1, np.inf], ml_dtypes.bfloat16),
        "ids": np.arange(3),
    }
    save_safetensors(tmp_path, tensors)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.nonfinite() == ["bad"] and checkpoint.nbytes == 60 + 4 + 24
    out = np.empty((3, 5), ml_dtypes.bfloat16)
    checkpoint.copy_to("good", out)
    assert (out == 1).all()
    with pytest.raises(CheckpointError, match="'good' has the shape"):
        checkpoint.copy_to("good", np.empty((5, 3)))
    with pytest.raises(CheckpointError, match="holds no tensor 'absent'"):
        checkpoint["absent"]
    save_safetensors(tmp_path, {n: s.cast(np.dtype(np.float16)).transposed() for n, s in checkpoint.entries.items()})
    assert open_checkpoint(tmp_path)["good"].shape == (5, 3)


def test_big_endian_and_strided_arrays(tmp_path):
    array = np.arange(24, dtype=">f4").reshape(4, 6)
    save_safetensors(tmp_path, {"a": array, "b": array.T, "c": array[:, ::2]})
    back = open_checkpoint(tmp_path)
    assert (back["a"] == array).all() and (back["b"] == array.T).all() and (back["c"] == array[:, ::2]).all()


def test_two_writers_in_one_folder(tmp_path):
    def second() -> np.ndarray:
        with pytest.raises(OutputError, match=rf"process {os.getpid()} on .* writes into this folder now"):
            save_safetensors(tmp_path, big(1))
        return np.ones(2, np.float32)

    save_safetensors(tmp_path, {"w": Stored((2,), np.dtype(np.float32), second)})
    assert open_checkpoint(tmp_path).names == ["w"] and len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".saving.lock").write_text("process 1 on a machine that was switched off")
    save_safetensors(tmp_path, big(1))  # a lock that nobody holds stops nobody
    assert len(open_checkpoint(tmp_path)) == 6 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("limit", [10**9, 900])
def test_kill_while_saving(tmp_path, limit):
    """kill -9 in the middle of a save: the old checkpoint is whole, and the next save clears away what was left."""
    import signal
    import subprocess
    import sys

    save_safetensors(tmp_path, big(1), max_shard_size=limit)
    code = (
        "import time, sys, numpy as np\n"
        "from xlm.checkpoints.files import save_safetensors\n"
        "from xlm.checkpoints.checkpoint import Stored\n"
        "def slow():\n    print('writing', flush=True); time.sleep(60)\n"
        "some = [(f'layer.{i}.weight', np.zeros((10, 10), np.float32)) for i in range(6)]\n"
        f"save_safetensors({str(tmp_path)!r}, [*some, ('last', Stored((1,), np.dtype('f4'), slow))], max_shard_size={limit})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    left = [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert left
    checkpoint = open_checkpoint(tmp_path)
    assert all((checkpoint[name] == array).all() for name, array in big(1).items())
    save_safetensors(tmp_path, big(2), max_shard_size=limit)
    assert (open_checkpoint(tmp_path)["layer.5.weight"] == big(2)["layer.5.weight"]).all()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("limit", ["5GB", 300])
def test_weights_and_config_change_together(tmp_path, monkeypatch, limit):
    """A save that fails at its last file leaves the one before whole: the config goes with the weights."""
    save_safetensors(tmp_path, big(1), max_shard_size=limit, beside={"config.json": '{"a": 1}'})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before["config.json"] == b'{"a": 1}'
    real, left = os.fsync, []

    def full(handle):
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()
        real(handle)

    for count in range(len(before)):
        left[:] = range(count)
        with monkeypatch.context() as patch:
            patch.setattr("xlm.atomic.os.fsync", full)
            with pytest.raises(OutputError, match="the disk is full"):
                save_safetensors(tmp_path, big(2), max_shard_size=limit, beside={"config.json": '{"a": 2}'})
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    paths = save_safetensors(tmp_path, big(2), max_shard_size=limit, beside={"config.json": '{"a": 2}'})
    assert (tmp_path / "config.json").read_text() == '{"a": 2}' and all("config" not in path.name for path in paths)
    assert (open_checkpoint(tmp_path)["layer.5.weight"] == big(2)["layer.5.weight"]).all()
