"""Pickles of a kilobyte in checkpoints and TorchScript, which ask for all memory or for ever."""

from __future__ import annotations

import argparse
import io
import pickle
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from struct import pack

import pytest
import tiny_models as tiny
import torch

from robustcheck import resources
from robustcheck.models.pytorch.checkpoint_pickle import check_checkpoint


def _text(text):
    return b"X" + pack("<I", len(text)) + text.encode()


def _number(number):
    return b"\x8a" + bytes([len(number_ := pickle.encode_long(number))]) + number_


def _tuple(*parts):
    return b"(" + b"".join(parts) + b"t"


def _call(module, name, *given):
    return f"c{module}\n{name}\n".encode() + _tuple(*given) + b"R"


def _storage(kind="Float", count=1, key="0"):
    return (
        _tuple(_text("storage"), f"ctorch\n{kind}Storage\n".encode(), _text(key), _text("cpu"), _number(count)) + b"Q"
    )


def _tensor(*sizes, kind="Float", stride=0, key="0", name="_rebuild_tensor_v2", beside=()):
    hooks = _call("collections", "OrderedDict")
    shape, strides = _tuple(*map(_number, sizes)), _tuple(*[_number(stride)] * len(sizes))
    return _call("torch._utils", name, _storage(kind, key=key), _number(0), shape, strides, *beside, b"\x89", hooks)


def _key(content):
    return b"}" + content + b"Ns"


def _again(first, step, times):
    """What begins so, is remembered as 0, and then is `step`, which may get it from there, so many times."""
    return first + b"q\x00" + (step + b"q\x00") * times


_TWICE = b"h\x00\x86"  # a pair of the last thing and itself, once more
_GRAPH = _call("torch.serialization", "_get_layout", _text("torch.sparse_coo"))
_SCALES = _tuple(b"ctorch\nper_tensor_affine\n", b"G" + pack(">d", 1), _number(0))
_PYTHON = "holds Python objects besides tensors"
_WORK = "has a pickle that takes far more work than its length explains"
_KEY = "has a key of more parts than any dictionary needs"

FORGED = {
    "tuples as keys": (_key(_again(b"N", _TWICE, 60)), _KEY),
    "keys of one hash": (
        b"}(" + b"".join(_tuple(_number(i * (2**61 - 1))) + b"N" for i in range(1, 20_000)) + b"u",
        _WORK,
    ),
    "a very long key": (_key(_tuple(*[_text("k" * 999)] * 20)), _KEY),
    "tuples in a set": (_call("builtins", "set", b"](" + _again(b"N", _TWICE, 60) + b"e"), _KEY),
    "tuples that are counted": (_call("collections", "Counter", b"](" + _again(b"N", _TWICE, 60) + b"e"), _KEY),
    "pairs of tuples": (_call("collections", "OrderedDict", b"](" + _again(b"N", _TWICE, 60) + b"N\x86e"), _KEY),
    "bytes": (_call("builtins", "bytearray", _number(12_000_000_000)), _PYTHON),
    "bytes of bytes": (_call("_codecs", "encode", _text("ab"), _text("punycode")), _PYTHON),
    "a text again": (
        _again(_text("a" * 200_000), b"", 0)
        + b"]("
        + (b"c_codecs\nencode\nh\x00" + _text("latin1") + b"\x86R") * 5000
        + b"e",
        _WORK,
    ),
    "a tensor of nothing": (_call("torch", "FloatTensor", _number(10**10)), _PYTHON),
    "a storage of nothing": (_call("torch.storage", "UntypedStorage", _number(10**11)), _PYTHON),
    "a file that is read": (_call("traceback", "FrameSummary", _text("/dev/zero"), _number(1), _text("x")), _PYTHON),
    "the numbers of a tensor": (_call("builtins", "set", _tensor(10**12)), _PYTHON),
    "a sparse tensor": (
        _call(
            "torch._utils", "_rebuild_sparse_tensor", _GRAPH,
            _tuple(_tensor(1, 10**11, kind="Long", key="1"), _tensor(10**11), _tuple(_number(5))),
        ),
        _WORK,
    ),
    "a quantised tensor": (
        _tensor(10**10, kind="QInt8", key="2", name="_rebuild_qtensor", beside=(_SCALES,)),
        _WORK,
    ),
    "a tensor of another device": (
        _call(
            "torch._utils", "_rebuild_device_tensor_from_cpu_tensor",
            _tensor(10**10), b"ctorch\nfloat64\n", _text("cpu"), b"\x89",
        ),
        _WORK,
    ),
    "beyond its storage": (_tensor(7, stride=1), r"has a tensor of sizes \(7,\) and .* from 0 on, in a record of 1"),
    "more than its storage": (_storage(count=9), "says of its storage '0' that it holds 9 numbers; it does not"),
    "axes": (_tensor(*[1] * 65), "has a tensor of 65 axes"),
    "a state": (_call("builtins", "set") + b"}b", _PYTHON),
    "a far place": (b"Nr\xff\xff\xff\xff", "has a pickle that wants 4,294,967,295 places for 0 things"),
    "a step that torch never writes": (b"\x8f", _PYTHON),
}  # fmt: skip


def _write(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("net/version", b"3\n")
        for key, size in (("0", 4), ("1", 8), ("2", 1)):
            archive.writestr(f"net/data/{key}", bytes(size))


@pytest.fixture
def unasked(monkeypatch):
    """torch is not asked for what would not end."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    monkeypatch.setattr(torch._C, "import_ir_module_from_buffer", lambda *_: pytest.fail("torch was asked"))


@pytest.mark.parametrize("what", FORGED)
def test_a_pickle_that_asks_for_too_much(what, tmp_path, refused, unasked):
    content, sentence = FORGED[what]
    _write(tmp_path / "net.pt", content)
    refused(tmp_path / "net.pt", rf"net\.pt {sentence}")


def test_a_pickle_that_comes_to_more_than_the_memory(tmp_path, refused, unasked, monkeypatch):
    _write(tmp_path / "net.pt", b"(" * 5000)
    monkeypatch.setattr(resources, "memory", lambda: 1_000_000)
    refused(tmp_path / "net.pt", r"net\.pt holds more than fits in the memory of this machine; it is not loaded")
    _write(tmp_path / "net.pt", b"X" + pack("<I", 300_000))
    refused(tmp_path / "net.pt", r"net\.pt holds more than fits")


@pytest.mark.parametrize("suffix", [".pt", ".ts"])
def test_a_pickle_that_is_packed(suffix, tmp_path, refused, unasked):
    _write(tmp_path / f"net{suffix}", b"(" * 2_000_000, zipfile.ZIP_DEFLATED)
    refused(tmp_path / f"net{suffix}", r"holds \d[\d,]* bytes that claim to unpack to 2,000,018; it is not loaded")


def test_a_packed_pickle_that_torch_alone_finds(tmp_path, refused, unasked, monkeypatch):
    """As its reader takes another directory of the file than Python's."""
    _write(tmp_path / "net.pt", b"(" * 2_000_000, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("robustcheck.models.pytorch.state_dict.check_archive", lambda _: ["net/data.pkl"])
    refused(tmp_path / "net.pt", r"net\.pt has a pickle compressed from 2,000,003 bytes, which torch never does")


def test_one_record_by_many_names(tmp_path, refused, unasked, monkeypatch):
    """torch finds it whatever the case of its letters is, and reads it for each name."""
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        names = [f"{i:05b}".replace("0", "a").replace("1", "A") for i in range(32)]
        held = b"](" + b"".join(_storage(count=1 << 20, key=name) for name in names) + b"e"
        archive.writestr("net/data.pkl", b"\x80\x02" + held + b".")
        archive.writestr("net/version", b"3\n")
        archive.writestr("net/data/aaaaa", bytes(4 << 20))
    refused(tmp_path / "net.pt", "has storages that add up to more than it holds")


def _bare(*pickled):
    """A file of torch before 1.6: its number and version, its machine, what it holds, and its keys."""
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    return b"".join([magic, b"\x80\x02M\xe9\x03.", *(b"\x80\x02" + part + b"." for part in pickled)])


@pytest.mark.parametrize("place", range(3))
def test_a_bare_pickle_that_asks_for_too_much(place, tmp_path, refused, unasked):
    parts = [b"}", b"}", b"]"]
    parts[place] = _key(_again(b"N", _TWICE, 60))
    (tmp_path / "net.pt").write_bytes(_bare(*parts))
    refused(tmp_path / "net.pt", _KEY)


def test_a_bare_pickle_whose_storages_have_no_names(tmp_path, refused, unasked):
    (tmp_path / "net.pt").write_bytes(_bare(b"}", b"}", b"](" + _again(b"N", _TWICE, 60) + b"e"))
    refused(tmp_path / "net.pt", _PYTHON)


def test_a_bare_pickle_that_has_another_part_of_a_storage(tmp_path, refused, unasked):
    view = _tuple(_text("1"), _number(3), _number(2))
    storage = _storage(count=4)[:-2] + view + b"tQ"
    (tmp_path / "net.pt").write_bytes(_bare(b"}", storage, b"]"))
    refused(tmp_path / "net.pt", "has 2 numbers from 3 on, in a storage of 4")


def test_an_archive_of_tar(tmp_path, refused, unasked):
    with tarfile.open(tmp_path / "net.pt", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\udc80"))
    refused(tmp_path / "net.pt", r"is an archive of torch before 0\.1\.10")


def _checkpoint():
    """All that torch itself loads of what people save beside weights."""
    net = tiny.tiny_net()
    optimiser = torch.optim.Adam(net.parameters())
    net(tiny.pictures().shares()).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 5])
    named = torch.nn.Parameter(torch.rand(3))
    named.tag = "mine"
    wide = torch.rand(3, 4)
    return {
        "epoch": 3,
        "state_dict": net.state_dict(),
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 1e-3, "size": (224, 224), "none": None, "bytes": b"abc", "big": 2**70},
        "collections": {"set": {1, "a", (1, 2)}, "counter": Counter("abca"), "ordered": OrderedDict(a=1), (1, 2): 2.5},
        "numbers": [1 + 2j, bytearray(b"abc"), torch.Size([1, 2]), torch.device("cpu"), torch.float32, torch.strided],
        "parameters": [named, torch.nn.Parameter(torch.rand(2), requires_grad=False), torch.nn.Buffer(torch.rand(2))],
        "views": [wide[1:], wide.t(), torch.rand(1, 3).expand(5, 3), torch.zeros(0, 3), wide],
        "nothing": torch.empty(2, device="meta"),
        "kinds": [torch.zeros(2, dtype=kind) for kind in (torch.bfloat16, torch.uint8, torch.bool, torch.complex64)],
        "conjugate": torch.rand(3, dtype=torch.complex64).conj(),
        "quantised": [
            torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8),
            torch.quantize_per_channel(torch.rand(3, 2), torch.rand(3) + 0.1, torch.zeros(3), 0, torch.quint8),
        ],
        "sparse": [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()],
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_what_people_save_passes(zipped, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(_checkpoint(), tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
        check_checkpoint(tmp_path / "net.pt")
        assert torch.load(tmp_path / "net.pt", weights_only=True)["epoch"] == 3


def test_newer_kinds_of_numbers_pass(tmp_path):
    kinds = (torch.float8_e4m3fn, torch.uint16, torch.uint32)
    torch.save([torch.zeros(2, dtype=kind) for kind in kinds], tmp_path / "net.pt")
    check_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize(
    "keys",
    [
        [i / 20_000 for i in range(20_000)],
        [(i, i) for i in range(100_000)],
        [(f"layer.{i}.weight", i) for i in range(20_000)],
        [2**61 + 7919 * i for i in range(20_000)],
    ],
    ids=["shares", "places", "names", "digests"],
)
def test_many_keys_that_are_no_texts_pass(keys, tmp_path):
    torch.save({"weights": torch.zeros(2), "scores": dict.fromkeys(keys, 0.5)}, tmp_path / "net.pt")
    check_checkpoint(tmp_path / "net.pt")


def test_several_numbers_in_a_byte_pass(tmp_path):
    four = torch.quantize_per_channel(torch.rand(4, 4), torch.rand(4) + 0.1, torch.zeros(4), 0, torch.quint4x2)
    torch.save({"weights": four}, tmp_path / "net.pt")
    check_checkpoint(tmp_path / "net.pt")


def test_what_the_user_allows_torch_to_make_passes(tmp_path, refused):
    torch.save({"weights": torch.zeros(2), "options": argparse.Namespace(lr=0.1)}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", _PYTHON)
    with torch.serialization.safe_globals([argparse.Namespace]):
        check_checkpoint(tmp_path / "net.pt")
        assert torch.load(tmp_path / "net.pt", weights_only=True)["options"].lr == 0.1


def test_the_sample_inputs_of_a_program(exported, tmp_path, refused, unasked):
    inputs = io.BytesIO()
    _write(inputs, _call("builtins", "bytearray", _number(12_000_000_000)))
    name = "net/data/sample_inputs/model.pt"
    tiny.rezip(exported, tmp_path / "net.pt2", {name: inputs.getvalue()})
    refused(tmp_path / "net.pt2", "its sample inputs are pickled objects")


# --- TorchScript -----------------------------------------------------------------------------------------------

_TOO_DEEP = "nests what it holds more deeply than any network needs"
SCRIPTED = {
    "tuples": (b"N" + b"\x85" * 100_000, _TOO_DEEP),
    "lists": (b"]" * 100_000 + b"a" * 99_999, _TOO_DEEP),
    "a list in itself": (b"]q\x7fh\x7fa", _TOO_DEEP),
    "lists from without": (b"(]q\x00" + b"h\x00]q\x01ah\x01]q\x00a" * 150 + b"t", _TOO_DEEP),
    "what is called with them": (_call("torch.jit._pickle", "build_intlist", b"N" + b"\x85" * 1000), _TOO_DEEP),
    "where a record is": (
        _tuple(_text("storage"), b"ctorch\nFloatStorage\n", _text("0"), b"N" + b"\x85" * 1000, _number(27)) + b"Q",
        "says of its record '0' that it holds 27 'Float'; it does not",
    ),
    "types": (
        _call("torch.jit._pickle", "restore_type_tag", b"]", _text("List[" * 2000 + "int" + "]" * 2000)),
        "nests types more deeply than any network needs",
    ),
    "a far place": (b"Nr\xff\xff\xff\xff", "has a pickle that wants 4,294,967,295 places for 0 things"),
    "two things": (b"NN", "cannot be loaded as TorchScript: it comes to more than one thing"),
}


@pytest.mark.parametrize("what", SCRIPTED)
def test_torchscript_that_asks_for_too_much(what, scripted, tmp_path, refused, unasked):
    content, sentence = SCRIPTED[what]
    tiny.rezip(scripted, tmp_path / "net.ts", {"net/data.pkl": b"\x80\x02" + content + b"."})
    refused(tmp_path / "net.ts", rf"net\.ts {sentence}")


def test_a_record_that_is_read_for_each_tensor(scripted, tmp_path, refused, unasked, monkeypatch):
    monkeypatch.setattr(resources, "memory", lambda: 3 << 20)
    content = b"\x80\x02](" + _tensor(1) * 4 + b"e."
    tiny.rezip(scripted, tmp_path / "net.ts", {"net/data.pkl": content, "net/data/0": bytes(1 << 20)})
    refused(tmp_path / "net.ts", r"net\.ts holds more than fits in the memory of this machine")


def test_where_code_was_written_is_not_read(scripted, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "robustcheck.models.pytorch.torchscript.check_tensors",
        lambda archive: seen.extend(zipfile.ZipFile(archive).namelist()),
    )
    assert any(name.endswith(".debug_pkl") for name in zipfile.ZipFile(scripted).namelist())
    tiny.load(scripted)
    assert seen
    assert not any(name.endswith(".debug_pkl") for name in seen)


def test_the_class_of_an_object_is_named(tmp_path, refused):
    torch.save({"args": argparse.Namespace(lr=0.1)}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", r"net\.pt holds Python objects besides tensors \(argparse\.Namespace\), and loading")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x" * 10_000_000, r"\(aux\.x{196}…\), and"),
        ("a\u202eb\x1b[2J", r"\(aux\.a\\u202eb\\x1b\[2J\), and"),
    ],
    ids=["long", "unprintable"],
)
def test_a_class_of_any_name_is_told_briefly(name, told, tmp_path, refused, unasked):
    _write(tmp_path / "net.pt", f"caux\n{name}\n".encode())
    refused(tmp_path / "net.pt", rf"^net\.pt holds Python objects besides tensors {told} .{{,200}}$")
