"""Files of torch.save, read without torch: what torch wrote comes back, what could run code is refused."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.checkpoints.files import open_checkpoint
from xlm.checkpoints.foreign import pickles
from xlm.checkpoints.foreign.pickles import Plain, Reader, plain
from xlm.checkpoints.foreign.torchfile import load_torch
from xlm.errors import CheckpointError

torch = pytest.importorskip("torch")
NEW = [True, False]


def as_numpy(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("new", NEW)
def test_what_torch_saves_comes_back(tmp_path, new):
    base = torch.randn(6, 8)
    state = collections.OrderedDict(
        f32=base,
        view=base[1:4, ::2],
        turned=base.T,
        f64=torch.randn(3, dtype=torch.float64),
        f16=torch.randn(3).half(),
        bf16=torch.randn(2, 3).bfloat16(),
        i64=torch.arange(5),
        i32=torch.arange(5, dtype=torch.int32),
        u8=torch.arange(5, dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(3.5),
        nothing=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.randn(2)),
    )
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "pytorch" and checkpoint.names == list(state)
    for name, tensor in state.items():
        array = checkpoint[name]
        assert array.shape == tuple(tensor.shape) and array.dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert np.ascontiguousarray(array).tobytes() == as_numpy(tensor.detach()), name
        checkpoint.release(name)
    assert np.ascontiguousarray(checkpoint["f32"]).tobytes() == as_numpy(base)


def test_newer_types_and_modules_state(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    state = module.state_dict()
    state["float8"] = torch.randn(4).to(torch.float8_e4m3fn)
    state["u16"] = torch.arange(4, dtype=torch.int32).to(torch.uint16)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names == list(state)
    assert all(checkpoint[name].tobytes() == as_numpy(tensor) for name, tensor in state.items())


@pytest.mark.parametrize("new", NEW)
def test_settings_of_other_programs_are_plain_data(tmp_path, new):
    value = {
        "args": argparse.Namespace(arch="roberta_base", lr=[0.1], nested=argparse.Namespace(x=1)),
        "scalar": np.float64(1.5),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["ab", "c"]),
        "dictionary": {i: f"w{i}" for i in range(3000)},
        "mixed": [None, True, -5, 2**70, 1.5, b"raw", "é", (1, (2,)), {3}, collections.defaultdict(int, a=1)],
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
    }
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    back = plain(load_torch(tmp_path / "x.pt"))
    assert back["args"] == {"arch": "roberta_base", "lr": [0.1], "nested": {"x": 1}}
    assert (
        back["scalar"] == 1.5
        and (back["array"] == value["array"]).all()
        and (back["fortran"] == value["fortran"]).all()
    )
    assert list(back["text"]) == ["ab", "c"] and back["dictionary"] == value["dictionary"]
    assert back["mixed"] == [None, True, -5, 2**70, 1.5, b"raw", "é", [1, [2]], [3], {"a": 1}]
    assert back["size"] == [2, 3]


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


EVIL = {
    "os.system": lambda: Evil(os.system, "touch /tmp/xlm-evil"),
    "eval": lambda: Evil(eval, "1+1"),
    "getattr": lambda: Evil(getattr, "a", "upper"),
    "open": lambda: Evil(open, "/tmp/xlm-evil", "w"),
    "import": lambda: Evil(__import__, "os"),
    "partial": lambda: Evil(__import__("functools").partial, print, 1),
    "torch.load": lambda: Evil(torch.load, "x"),
    "numpy load": lambda: Evil(np.load, "x"),
}


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("case", EVIL)
def test_pickles_that_ask_for_code_are_refused(tmp_path, case, new):
    torch.save(
        {"weight": torch.ones(2), "x": EVIL[case]()}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new
    )
    with pytest.raises(CheckpointError, match=r"refused|could run code") as caught:
        open_checkpoint(tmp_path)
    assert "pytorch_model.bin" in str(caught.value) and not Path("/tmp/xlm-evil").exists()


def test_foreign_objects_never_become_live(tmp_path):
    # An instance of a class of a listed program is a bag of values; its methods are not called.
    raw = b"\x80\x02cfairseq.meters\nAverageMeter\n)\x81}q\x00X\x01\x00\x00\x00aK\x01sb."
    value = Reader(raw).load()
    assert isinstance(value, Plain) and plain(value) == {"a": 1}
    for raw in (
        b"\x80\x02cfairseq.meters\nAverageMeter\n}X\x01\x00\x00\x00aK\x01sb.",  # state for a class
        b"\x80\x02]K\x01b.",  # state for a list
        b"\x80\x02K\x01)R.",  # a call of a number
        b"\x80\x02ccollections\nOrderedDict\nK\x01R.",  # arguments that are no tuple
        b"\x80\x02(ios\nsystem\n.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02q\xff.",
        b"\x80\x02h\x07.",
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 20_000,
        b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",  # two billion bytes
        b"",
    ):
        with pytest.raises(CheckpointError):
            Reader(raw).load()
    assert Reader(b"\x80\x02Nr\xff\xff\xff\xff.").load() is None  # a huge memo index costs nothing


def test_a_small_pickle_that_pretends_to_be_large(monkeypatch):
    monkeypatch.setattr(pickles, "_MAX_PLAIN", 1000)
    raw = (
        b"\x80\x02]q\x00"
        + b"".join(b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(20))
        + b"."
    )
    with pytest.raises(CheckpointError, match="or 1000 values"):
        plain(Reader(raw).load())


@pytest.mark.parametrize(
    "name", ["__builtin__\nset", "__builtin__\nfrozenset", "collections\nOrderedDict", "__builtin__\nbytes"]
)
def test_calls_that_copy_what_is_named_again_and_again(tmp_path, name):
    """A list of 5,000 items and 3,000 calls of six bytes: 15 million copies out of 30 kB."""
    items = b"](" + (b")" if "Ordered" in name else b"K\x01") * 5000 + b"e"
    pickled = b"\x80\x02" + items + b"\x85q\x00" + b"c" + name.encode() + b"\nq\x01" + b"0" * 2 + b"]"
    pickled += b"(" + b"h\x01h\x00R" * 3000 + b"e."
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    if "Ordered" in name:  # pairs are needed: refused for that, or for the copies
        with pytest.raises(CheckpointError):
            load_torch(tmp_path / "pytorch_model.bin")
        return
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: the calls of the pickle copy more than"):
        load_torch(tmp_path / "pytorch_model.bin")


def test_states_that_are_copied_into_many_objects():
    entries = b"".join(b"X\x04\x00\x00\x00%04dK\x01" % n for n in range(2000))
    raw = b"\x80\x02}(" + entries + b"uq\x000](" + b"cargparse\nNamespace\n)\x81h\x00b" * 2000 + b"e."
    with pytest.raises(CheckpointError, match="copy more than"):
        Reader(raw).load()


def test_pickles_are_bounded_in_bytes_and_instructions(tmp_path, monkeypatch):
    raw = b"\x80\x02](" + b"]" * 2000 + b"e."
    assert len(Reader(raw, limit=len(raw)).load()) == 2000
    with pytest.raises(CheckpointError, match="more than the limit of 1,000 bytes"):
        Reader(raw, limit=1000).load()
    monkeypatch.setattr(pickles, "_MAX_STEPS", 1000)
    with pytest.raises(CheckpointError, match="more than the limit of 1,000 instructions"):
        Reader(raw).load()
    monkeypatch.setattr("xlm.checkpoints.foreign.torchfile.MAX_PICKLE", 100)
    torch.save({"words": ["word"] * 1000}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="more than the limit of 100 bytes"):
        load_torch(tmp_path / "pytorch_model.bin")


@given(st.binary(max_size=100))
def test_random_pickles_never_crash(noise):
    with contextlib.suppress(CheckpointError):
        Reader(b"\x80\x02" + noise).load()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    ),
    st.integers(0, 5),
)
def test_plain_pickles_of_every_protocol(value, protocol):
    assert Reader(pickle.dumps(value, protocol)).load() == value


@pytest.mark.parametrize("new", NEW)
def test_truncated_files(tmp_path, new):
    path = tmp_path / "pytorch_model.bin"
    torch.save({f"w{i}": torch.randn(20, 20) for i in range(4)}, path, _use_new_zipfile_serialization=new)
    raw = path.read_bytes()
    for length in range(10, len(raw) - 1, len(raw) // 40):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


def rezip(path: Path, change, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)


def test_compressed_members_and_bombs(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    tensor = torch.randn(50, 50)
    torch.save({"w": tensor}, path)
    rezip(path, lambda members: None, zipfile.ZIP_DEFLATED)
    assert open_checkpoint(path)["w"].tobytes() == as_numpy(tensor)
    torch.save({"w": torch.zeros(3000, 3000)}, path)
    rezip(path, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"unpack to 36\d{6}; the limit is"):
        open_checkpoint(path)
    torch.save({"w": tensor}, path)
    rezip(path, lambda members: members.update({next(n for n in members if n.endswith("data/0")): b"short"}))
    with pytest.raises(CheckpointError, match="10000 bytes of the storage '0', which has 5"):
        open_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(CheckpointError, match="it has no data"):
        open_checkpoint(path)
    torch.save({"w": tensor}, path)
    rezip(path, lambda members: members.update({next(n for n in members if n.endswith("byteorder")): b"big"}))
    with pytest.raises(CheckpointError, match="big-endian"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((100,), (1,), 0),
        ((4,), (1,), 8),
        ((2, 2), (10, 1), 0),
        ((10**9, 10**9), (0, 0), 0),
        ((-1,), (1,), 0),
        ((4,), (-1,), 3),
    ],
)
def test_tensors_outside_their_storage(tmp_path, shape, stride, offset):
    from xlm.checkpoints.foreign.torchfile import Storage, _rebuild

    storage = Storage(np.dtype(np.float32), 10, lambda: np.zeros(40, np.uint8), lambda: None)
    with pytest.raises(ValueError, match="a tensor of shape"):
        _rebuild(storage, offset, shape, stride)


def test_a_legacy_storage_that_lies_about_its_size(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.randn(5)}, path, _use_new_zipfile_serialization=False)
    raw = bytearray(path.read_bytes())
    raw[-28:-20] = struct.pack("<q", 2**40)
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(path)


def test_sharded_bin_and_refusal_on_request(tmp_path):
    import json

    for i in (1, 2):
        torch.save({f"w{i}": torch.full((2,), float(i))}, tmp_path / f"pytorch_model-0000{i}-of-00002.bin")
    weights = {f"w{i}": f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint["w2"]) == [2, 2] and len(checkpoint.files) == 2
    with pytest.raises(CheckpointError, match="no weights found; looked for"):
        open_checkpoint(tmp_path, use_safetensors=True)
    with pytest.raises(CheckpointError, match="allow_pickle=False"):
        open_checkpoint(tmp_path, allow_pickle=False)


def test_no_tensors(tmp_path):
    torch.save({"a": 1}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no named tensors, but a dict"):
        open_checkpoint(tmp_path)
    torch.save([1], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no named tensors, but a list"):
        open_checkpoint(tmp_path)
