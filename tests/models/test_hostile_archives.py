"""State dicts, TorchScript and safetensors from somebody who means harm, or from a disk that was full."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from tiny_models import Payload

from robustcheck.models import artefact
from robustcheck.models.artefact import checked_copy

# --- .pt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_payload_does_not_run(zipped, tmp_path, marker, refused, net):
    held = {"state_dict": net.state_dict(), "extra": Payload(marker)}
    torch.save(held, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pt", r"net\.pt holds Python objects besides tensors.*\.safetensors.*trust: pickle")


def test_it_runs_where_the_policy_trusts_it(tmp_path, marker, net):
    torch.save({"state_dict": net.state_dict(), "extra": Payload(marker)}, tmp_path / "net.pt")
    _, logits = tiny.load(tmp_path / "net.pt", trust="pickle")
    assert marker.exists()
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


def test_a_whole_module_is_loaded_only_with_trust(tmp_path, refused):
    net = tiny.tiny_net()
    torch.save(net.train(), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "holds Python objects besides tensors")
    _, logits = tiny.load(tmp_path / "net.pt", trust="pickle", architecture=None)
    torch.testing.assert_close(logits, net.eval()(tiny.pictures().shares()).detach())


def test_trusted_code_that_fails_is_a_sentence(tmp_path, marker, refused):
    torch.save({"extra": Payload(tmp_path / "no" / "such" / "folder")}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", r"net\.pt cannot be loaded: .*No such file", trust="pickle")


def test_a_bare_pickle_does_not_run(tmp_path, marker, refused):
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Payload(marker), protocol=2))
    refused(tmp_path / "net.pt", "holds Python objects besides tensors")
    (tmp_path / "net.pt").write_bytes(f"cos\nmkdir\n(V{marker}\ntR.".encode())  # protocol 0
    refused(tmp_path / "net.pt", "not a complete torch.save file")


def test_an_archive_that_lacks_a_part_is_incomplete(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/version", "3")
    refused(
        tmp_path / "net.pt",
        r"^net\.pt is incomplete or damaged \(PytorchStreamReader failed locating file data\.pkl: file not found\): "
        r"copy or save it again$",
    )


def test_a_checkpoint_that_is_no_state_dict(tmp_path, refused):
    torch.save([torch.zeros(3)], tmp_path / "net.pt")
    refused(tmp_path / "net.pt", r"net\.pt holds no state dict \(names to tensors\), but list")
    torch.save({"state_dict": {"conv.weight": 3.0}}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "holds no state dict")


# --- files that are not what their name says ---------------------------------------------------------------------

WHOLE = {
    ".pt": r"net\.pt is not a complete torch\.save file",
    ".ts": r"net\.ts is not a complete TorchScript archive",
    ".pt2": r"net\.pt2 is not a complete torch\.export archive",
    ".safetensors": r"net\.safetensors is not a complete safetensors file",
    ".onnx": r"net\.onnx is not an ONNX",
}
SAVE = {
    ".pt": lambda net, path: torch.save(net.state_dict(), path),
    ".ts": tiny.save_script,
    ".pt2": tiny.save_exported,
    ".safetensors": tiny.save_safetensors,
    ".onnx": tiny.save_onnx_old,
}


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("content", [b"", b"PK", b"hello, this is text\n" * 20, bytes(range(256)) * 8])
def test_other_bytes(suffix, content, tmp_path, refused):
    (tmp_path / f"net{suffix}").write_bytes(content)
    refused(tmp_path / f"net{suffix}", WHOLE[suffix])


@pytest.mark.parametrize("suffix", WHOLE)
def test_files_that_are_cut_short(suffix, tmp_path, refused, net):
    whole = tmp_path / f"whole{suffix}"
    SAVE[suffix](net, whole)
    content = whole.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / f"net{suffix}").write_bytes(content[: int(len(content) * share)])
        refused(tmp_path / f"net{suffix}", r"net\.")


@pytest.mark.parametrize(
    ("held", "named", "match"),
    [
        (".ts", ".pt", r"is TorchScript, not a state dict; rename it to end in \.ts"),
        (".pt2", ".pt", r"is a torch\.export program, not a state dict; rename it to end in \.pt2"),
        (".pt2", ".ts", r"is not a complete TorchScript archive .*; a torch\.export program is named \.pt2"),
        (".pt", ".ts", "is not a complete TorchScript archive"),
        (".pt", ".pt2", r"is not a complete torch\.export archive"),
        (".safetensors", ".pt", r"is not a complete torch\.save file"),
    ],
)
def test_a_format_under_the_name_of_another(held, named, match, tmp_path, refused, net):
    SAVE[held](net, tmp_path / f"other{held}")
    (tmp_path / f"other{held}").rename(tmp_path / f"net{named}")
    refused(tmp_path / f"net{named}", match)


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pt2"])
def test_archives_that_unpack_to_much_more(suffix, tmp_path, refused):
    with zipfile.ZipFile(tmp_path / f"net{suffix}", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("net/archive_format", "net/constants.pkl", "net/data.pkl"):
            archive.writestr(name, b"")
        with archive.open("net/data/0", "w") as stream:
            for _ in range(100):
                stream.write(bytes(1024 * 1024))
    refused(tmp_path / f"net{suffix}", r"holds \d.* bytes that claim to unpack to 104,857,600; it is not loaded")


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pt2"])
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_would_be_unpacked_without_a_limit(suffix, method, tmp_path, refused):
    with zipfile.ZipFile(tmp_path / f"net{suffix}", "w") as archive:
        for name in ("net/archive_format", "net/constants.pkl", "net/data.pkl"):
            archive.writestr(name, b"")
        archive.writestr("net/data/0", bytes(100), method)
    refused(tmp_path / f"net{suffix}", r"holds what is neither stored nor deflated, unlike torch's; it is not loaded")


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path):
    """It is read up to its size, and what lies beyond it is not unpacked."""
    with zipfile.ZipFile(tmp_path / "net.ts", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/0", bytes(16 * 1024 * 1024))
        member = archive.getinfo("net/data/0")
        member.file_size, member.CRC = 100, zlib.crc32(bytes(100))  # of the directory, which is what readers believe
    seen = []
    tracemalloc.start()
    try:
        checked_copy(tmp_path / "net.ts", lambda _name, content: seen.append(content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == [bytes(100)]
    assert peak < 4 * 1024 * 1024


def test_there_is_no_such_file(tmp_path, refused):
    refused(tmp_path / "net.pt", "there is no file .*net.pt")
    (tmp_path / "net.ts").mkdir()
    refused(tmp_path / "net.ts", r"net\.ts is not a file$")


@pytest.mark.parametrize("content", [bytes(8), b"no state dict"])
def test_what_begins_as_no_state_dict_is_not_read_whole(tmp_path, refused, monkeypatch, content):
    (tmp_path / "net.pt").write_bytes(content)
    monkeypatch.setattr(artefact, "digest", lambda *_: pytest.fail("it was read"))
    refused(tmp_path / "net.pt", r"net\.pt is not a complete torch\.save file")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pt2", ".safetensors"])
def test_what_no_disk_holds_is_not_read(tmp_path, refused, monkeypatch, suffix):
    (tmp_path / f"net{suffix}").symlink_to("/proc/self/maps")
    monkeypatch.setattr(artefact, "digest", lambda *_: pytest.fail("it was read"))
    refused(tmp_path / f"net{suffix}", rf"net\{suffix} is not a regular file$")


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pt2", ".safetensors"])
def test_what_no_memory_holds_is_not_read(suffix, tmp_path, refused, monkeypatch, net):
    """A file of holes takes no room, and an hour to read."""
    SAVE[suffix](net, tmp_path / f"net{suffix}")
    os.truncate(tmp_path / f"net{suffix}", 10**12)
    monkeypatch.setattr(artefact, "digest", lambda *_: pytest.fail("it was read"))
    refused(tmp_path / f"net{suffix}", rf"net\{suffix} has 1,000,000,000,000 bytes, but this process may use .* of mem")


# --- TorchScript -----------------------------------------------------------------------------------------------


def _script_with(line, scripted, path, extra=()):
    """The tiny network, which runs `line` before anything else."""
    name = tiny.code_of(scripted)
    head, colon, rest = tiny.member(scripted, name).decode().partition("-> Tensor:\n")
    changed = f"{head}{colon}    {line}\n{rest}".encode()
    tiny.rezip(scripted, path, {name: changed, ".debug_pkl": None}, extra)


def test_a_harmless_line_runs(scripted, tmp_path, net):
    _script_with("_x = torch.add(image, image)", scripted, tmp_path / "net.ts")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


@pytest.mark.parametrize(
    "line",
    [
        'torch.save(image, "{}")',
        'torch . save(image, "{}")',
        'torch.\\\n save(image, "{}")',
        'f = torch.save\n    f(image, "{}")',
        'getattr(torch, "save")(image, "{}")',
        'getattr(torch, "sav\\145")(image, "{}")',
        'ops.aten.save(image, "{}")',
        '_x = torch.from_file("{}", True, 100)',
        '_x = ops.aten.from_file("{}", True, 100)',
        '_x = ops.image.write_file("{}", torch.zeros([4], dtype=0))',
        '_x = ops.image.read_file("{}")',
    ],
)
def test_code_that_reaches_for_files(line, scripted, tmp_path, marker, refused):
    _script_with(line.format(marker), scripted, tmp_path / "net.ts")
    refused(tmp_path / "net.ts", r"net\.ts (names '\w+' in .*does not read or write files|looks up names by getattr)")


def test_what_would_run_if_it_were_not_refused(scripted, tmp_path, marker):
    """The test above tests something: torch itself runs such code."""
    _script_with(f'f = torch.save\n    f(image, "{marker}")', scripted, tmp_path / "net.ts")
    tiny.quietly(torch.jit.load, str(tmp_path / "net.ts"))(tiny.pictures().shares())
    assert marker.exists()


BEYOND = {
    "_x = ops.inductor._reinterpret_tensor(image, [1], [1], 1000)": "calls 'ops.inductor._reinterpret_tensor'",
    "o = ops\n    _x = o.inductor._reinterpret_tensor(image, [1], [1], 1000)": "calls 'ops'",
    "_x = ops . inductor._reinterpret_tensor(image, [1], [1], 1000)": "calls 'ops'",
    "_x = torch._reshape_alias(image, [9], [1])": "names '_reshape_alias'",
    "_x = image._reshape_alias([9], [1])": "names '_reshape_alias'",
    "_x = torch.set_(image, image)": "names 'set_'",
    "_x = torch._index_put_impl_(image, [image], image, False, True)": "names '_index_put_impl_'",
    '_x = torch.segment_reduce(image, "sum")': "names 'segment_reduce'",
    "_x = torch.fill_(torch.indices(torch.to_sparse(image)), 9)": "names 'to_sparse'",
    "_x = torch.fill_(torch.indices(torch.coalesce(torch.grad([image], [image])[0])), 9)": "names 'grad'",
    "_x, _y, _z, _w = torch.embedding_bag(image, image, image)": "names 'embedding_bag'",
    "_x = torch._embedding_bag(image, image, image)": "names '_embedding_bag'",
    "_x = image._cudnn_rnn()": "names '_cudnn_rnn'.*, which is not among the operators that are run",
    'print("PASS: 6 gates passed")': "names 'print'",
    '_x = torch.add(image, image) if """a"b""" == "" else torch.set_(image, image)  # "': "writes strings",
    '_x = torch.add(image, image) if \'"\' == "" else torch.set_(image, image)': "writes strings",
    "_x, _y, _z = unchecked_cast(Tuple[Tensor, Tensor, Tensor], (image, image))\n    image = torch.add(_x, _z)": (
        r"takes 'Tuple\[Tensor, Tensor\]' for 'Tuple\[Tensor, Tensor, Tensor\]' unchecked"
    ),
}


@pytest.mark.parametrize("line", BEYOND)
def test_code_that_reaches_beyond_its_tensors_or_prints(line, scripted, tmp_path, refused, capfd):
    _script_with(line, scripted, tmp_path / "net.ts")
    refused(tmp_path / "net.ts", rf"net\.ts {BEYOND[line]}")
    assert capfd.readouterr().out == ""


def test_warnings_of_code_are_not_shown(scripted, tmp_path, net):
    """Here they would be errors, and elsewhere lines of the terminal."""
    _script_with(r'torch.warn("it says\n::error::all gates passed", 2)', scripted, tmp_path / "net.ts")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


OUTSIDE = {
    "sizes": (
        b"K\x03K\x01K\x03K\x03t",
        b"K\x03K\x01K\x03K\x7ft",
        r"sizes \(3, 1, 3, 127\) and strides \(9, 9, 3, 1\) from 0 on",
    ),
    "strides": (b"(K\tK\tK\x03K\x01t", b"(K\tK\tK\x7fK\x01t", r"strides \(9, 9, 127, 1\) from 0 on, in a record of 27"),
    "negative": (b"(K\tK\tK\x03K\x01t", b"(J\xff\xff\xff\xffK\tK\x03K\x01t", r"strides \(-1, 9, 3, 1\)"),
    "offset": (b"tQq\x0bK\x00", b"tQq\x0bK\x7f", "from 127 on, in a record of 27"),
    "count": (b"K\x1bt", b"M\x00\x10t", "says of its record '0' that it holds 4096 'Float'; it does not"),
    "record": (b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x00xq", "says of its record 'x' that it holds 27"),
    "kind": (b"ctorch\nFloatStorage", b"ctorch\nLongStorage", "that it holds 27 'Long'; it does not"),
    "class": (b"ccollections\nOrderedDict", b"cos\nsystem", r"holds 'os\.system', which no network needs"),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_tensor_that_lies_outside_of_its_record(what, scripted, tmp_path, refused):
    before, after, sentence = OUTSIDE[what]
    content = tiny.member(scripted, "net/data.pkl")
    assert before in content
    tiny.rezip(scripted, tmp_path / "net.ts", {"net/data.pkl": content.replace(before, after, 1)})
    refused(tmp_path / "net.ts", rf"net\.ts .*{sentence}.*; it is not loaded")


def test_kinds_of_numbers_that_are_not_read(scripted, tmp_path, refused):
    content = tiny.member(scripted, "net/data.pkl").replace(b"ctorch\nFloatStorage", b"ctorch\nFloat8_e4m3fnStorage")
    tiny.rezip(scripted, tmp_path / "net.ts", {"net/data.pkl": content})
    refused(tmp_path / "net.ts", r"net\.ts holds tensors of kind 'Float8_e4m3fn', which are not read; it is not loaded")


def test_files_that_their_writer_adds_may_be_named_as_they_like(scripted, tmp_path, net):
    tiny.rezip(scripted, tmp_path / "net.ts", {}, [("extra/model.json", b"{}"), ("extra/attributes.pkl", b"")])
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


def test_torchscript_of_before_records(scripted, tmp_path, refused):
    tiny.rezip(scripted, tmp_path / "net.ts", {}, [("model.json", b"{}")])
    refused(tmp_path / "net.ts", r"net\.ts is TorchScript from before torch 1\.4; save it again")


def test_words_in_messages_are_no_calls(scripted, tmp_path, net):
    message = r"print \"set_\" of ops.inductor\n _reshape_alias"
    _script_with(f'if False:\n      ops.prim.RaiseException("{message}")', scripted, tmp_path / "net.ts")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


@pytest.mark.parametrize("letters", ["tiny", "TINY"])
def test_two_members_of_one_name(letters, scripted, tmp_path, refused):
    name = tiny.code_of(scripted)
    again = (name.replace("tiny", letters), tiny.member(scripted, name))
    _script_with("_x = image", scripted, tmp_path / "net.ts", [again])
    refused(tmp_path / "net.ts", "twice; it is not loaded")


def test_a_member_that_is_damaged(scripted, tmp_path, refused):
    content = bytearray(scripted.read_bytes())
    content[content.index(tiny.member(scripted, "net/data/0"))] ^= 0xFF
    (tmp_path / "net.ts").write_bytes(content)
    refused(tmp_path / "net.ts", "net.ts is a broken archive: .*CRC")


class _Scripted(tiny.TinyNet):
    """What scripting writes of transformers and recurrent layers: operators private to torch, casts and warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(self.layer, 1)
        self.memory = torch.nn.LSTM(4, 2, batch_first=True)

    def forward(self, image):
        rows = torch.nn.functional.interpolate(image, size=[3, 4], mode="bilinear", align_corners=False)[:, 0]
        return self.memory(self.encoder(rows))[0][:, -1]


def test_what_scripting_writes_is_loaded(tmp_path):
    with torch.random.fork_rng(devices=[]):
        network = tiny.quietly(_Scripted).eval()
    tiny.save_script(network, tmp_path / "net.ts")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, tiny.quietly(network, tiny.pictures().shares()).detach(), rtol=1e-4, atol=1e-5)


class _Named(tiny.TinyNet):
    """Attributes that are named as torch names what reaches memory."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = torch.nn.ModuleList([torch.nn.ReLU(), torch.nn.ReLU6()])
        self.register_buffer("_values", torch.ones(2))
        self._indices = [1, 2]

    def forward(self, image):
        for op in self.ops:
            image = op(image)
        highest = torch.unique(image.flatten(1), dim=1)
        return image.mean((2, 3)) * self._values * self._indices[1] + highest[:, -1:] * 0


def test_attributes_may_have_the_names_of_operators(tmp_path):
    network = _Named().eval()
    tiny.save_script(network, tmp_path / "net.ts")
    assert b"  ops : " in tiny.member(tmp_path / "net.ts", "code/__torch__/test_hostile_archives.py")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, network(tiny.pictures().shares()).detach())


class _Unique(tiny.TinyNet):
    def forward(self, image):
        values, places = torch.unique(image, return_inverse=True)
        return self.fc(self.bn(self.conv(values[places])).relu().mean((2, 3)))


def test_operators_private_to_torch_that_look_where_they_write_are_run(tmp_path, net):
    network = _Unique().eval()
    network.load_state_dict(net.state_dict())
    tiny.save_script(network, tmp_path / "net.ts")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


class _OfEither(tiny.TinyNet):
    def forward(self, image: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        some = image if isinstance(image, torch.Tensor) else image[0]
        return self.fc(self.bn(self.conv(some)).mean((2, 3)))


class _Asked(torch.nn.Module):
    """It is not asked by its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.tiny_net()

    @torch.jit.export
    def predict(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image)


def test_a_network_of_either_type_is_told_what_to_do(tmp_path, refused):
    tiny.save_script(_OfEither().eval(), tmp_path / "net.ts")
    refused(
        tmp_path / "net.ts", r"takes '.*' for 'List\[Tensor\]' unchecked; trace the network, or give that one type;"
    )


def test_a_network_without_forward(tmp_path, refused):
    tiny.save_script(_Asked().eval(), tmp_path / "net.ts")
    refused(tmp_path / "net.ts", r"net\.ts has no forward, the method that a network is asked with; save one that has")


def test_code_that_does_not_compile(scripted, tmp_path, refused):
    _script_with("_x = torch.no_such_function(image)", scripted, tmp_path / "net.ts")
    refused(tmp_path / "net.ts", "cannot be loaded as TorchScript")
