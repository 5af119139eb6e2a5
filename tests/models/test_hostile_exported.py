"""torch.export programs whose archive was rewritten: torch unpickles parts of them and makes Python of others."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import tiny_models as tiny
import torch
import torchvision
from tiny_models import Payload

from robustcheck.models.pytorch.torch_export import load_exported
from robustcheck.models.pytorch.torch_export_graph import UnsafeGraphError, cleaned

PROGRAM, WEIGHTS, CONSTANTS = "models/model.json", "model_weights_config.json", "model_constants_config.json"


@pytest.fixture
def rewrite(exported, tmp_path):
    """Write the program with its JSON changed; returns the file."""

    def save(change=None, *, members=None, extra=()):
        path = tmp_path / "evil.pt2"
        document = json.loads(tiny.member(exported, PROGRAM))
        if change:
            change(document)
        tiny.rezip(exported, path, {PROGRAM: json.dumps(document).encode(), **(members or {})}, extra)
        return path

    return save


@pytest.fixture
def act(marker):
    """Python that makes the marker, without a dot: torch splits names at dots."""
    return f'getattr(__import__("os"),"mkdir")("{marker}")'


def _replaced(document, old, new):
    text = json.dumps(document).replace(old, new)
    document.clear()
    document.update(json.loads(text))


def _set_sizes(value, text):
    """Every symbolic size of a document becomes `text`."""
    for key, held in value.items() if isinstance(value, dict) else ():
        if key == "expr_str":
            value[key] = text
        _set_sizes(held, text)
    for held in value if isinstance(value, list) else ():
        _set_sizes(held, text)


def _nodes(document):
    return document["graph_module"]["graph"]["nodes"]


def test_rewriting_alone_changes_nothing(rewrite, net):
    _, logits = tiny.load(rewrite())
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


# --- pickles -----------------------------------------------------------------------------------------------------


def _config_with(path_name):
    meta = {"dtype": 7, "sizes": [], "requires_grad": False, "device": {"type": "cpu", "index": None}, "strides": [],
            "storage_offset": {"as_int": 0}, "layout": 7}  # fmt: skip
    entry = {"path_name": path_name, "is_param": False, "use_pickle": True, "tensor_meta": meta}
    return json.dumps({"config": {"evil": entry}}).encode()


@pytest.mark.parametrize("name", ["tensor_9", "custom_obj_9", "opaque_obj_9"])
def test_a_pickle_among_the_constants(name, rewrite, refused, marker):
    path = rewrite(
        members={CONSTANTS: _config_with(name)},
        extra=[(f"data/constants/{name}", pickle.dumps(Payload(marker)))],
    )
    refused(path, r"evil\.pt2 is not loaded: ('evil' is a pickled object|it holds 'net/data/constants/\w+_obj_9')")


def test_a_pickle_among_the_weights(rewrite, refused, marker, exported):
    document = json.loads(tiny.member(exported, WEIGHTS))
    document["config"]["fc.bias"]["use_pickle"] = True
    path = rewrite(members={WEIGHTS: json.dumps(document).encode(), "weights/weight_5": pickle.dumps(Payload(marker))})
    refused(path, r"'fc\.bias' is a pickled object \(weight_5\), which could run code")


def test_a_pickle_as_the_sample_inputs(rewrite, refused, marker):
    path = rewrite(members={"sample_inputs/model.pt": pickle.dumps(Payload(marker))})
    refused(path, "its sample inputs are pickled objects, not tensors, and could run code")


def test_weights_in_the_older_form_which_is_a_pickle(rewrite, refused, marker):
    refused(rewrite(extra=[("data/weights/model.pt", pickle.dumps(Payload(marker)))]), "no exported network needs")


def test_loading_unpickles_nothing(exported, monkeypatch, net):
    """Whatever a pickle hides: torch is not given any."""

    def fail(*_arguments, **_options):
        raise AssertionError("unpickled")

    monkeypatch.setattr("robustcheck.models.pytorch.torch_export._check_sample_inputs", lambda *_: None)
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(pickle, "loads", fail)
    _, logits = tiny.load(exported)
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


# --- expressions and names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{act}",
        "S({act!r})",
        "Symbol({act!r})",
        "Symbol('s77').subs(1, 1)",
        "Add(Integer(1), {act})",
        "Symbol('s77', positive={act})",
        "Lambda(Symbol('x'), 1)",
        "Integer(1) if {act} else 2",
        "[{act} for _ in (1,)]",
        "Mul(Integer('1'), 2)",
        "Pow(Integer(9), Integer(999999999))",
        "Pow(Integer(9), Pow(9, 9))",
        "Pow(Pow(Pow(Integer(9), Integer(8)), Integer(8)), Integer(8))",
        "Pow(Max(1, PowByNatural(9, 3)), Integer(-3))",
        "1 +",
        "",
        "Add(" * 2000 + ")" * 2000,
    ],
)
def test_a_size_that_is_more_than_arithmetic(text, rewrite, refused, act):
    path = rewrite(lambda document: _set_sizes(document, text.format(act=act)))
    refused(path, "is not loaded: it holds the expression ['\"].*['\"], which could run code")


@pytest.mark.parametrize(
    "guard",
    [
        "{act}",
        "L['x'].size()[0] == {act}",
        "L['x'].__class__",
        "1 == '\" + str({act}) + \"'",  # torch puts the guard between quotation marks
        "(lambda: 1)()",
        "eval('1')",
        "open('x')",
    ],
)
def test_a_guard_that_acts(guard, rewrite, refused, act):
    path = rewrite(lambda document: document.update(guards_code=[guard.format(act=act)]))
    refused(path, "is not loaded: it holds the guard .*, which could run code")


def test_guards_of_shapes_are_fine_and_not_compiled(rewrite, net):
    guards = [
        "torch.sym_max(1, (-2) + L['x'].size()[3]) > 1",
        "(L['x'].size()[2] // 2) >= 2",
        "Mod(L['x'].size()[0], 99991) == 7",
    ]
    _, logits = tiny.load(rewrite(lambda document: document.update(guards_code=guards)))
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


def test_a_name_of_a_weight(rewrite, refused, act, exported):
    """Names become attributes in generated source: getattr(self, "…")."""
    name = f'conv", {act}, "'
    weights = tiny.member(exported, WEIGHTS).decode().replace("conv.weight", json.dumps(name)[1:-1])
    path = rewrite(
        lambda document: _replaced(document, '"conv.weight"', json.dumps(name)), members={WEIGHTS: weights.encode()}
    )
    refused(path, "it holds the name 'conv.*, which could run code")


@pytest.mark.parametrize("name", ["image={act}", "image: {act}", "image):\n {act}\ndef f(", "image\n"])
def test_a_name_of_an_argument(name, rewrite, refused, act):
    def change(document):
        document["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name.format(act=act)]

    refused(rewrite(change), "it holds the name .*, which could run code")


def test_a_name_of_an_input(rewrite, refused, act):
    for name in ("image", "p_conv_weight"):
        path = rewrite(lambda document, name=name: _replaced(document, f'"{name}"', json.dumps(f"{name}={act}")))
        refused(path, f"it holds the name '{name}=.*, which could run code")


def test_a_name_that_is_a_key(rewrite, refused, act):
    def change(document):
        values = document["graph_module"]["graph"]["tensor_values"]
        values[act] = values["image"]

    refused(rewrite(change), "it holds the name .*, which could run code")


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "builtins.list", "context": json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "x"}])},
        {"type": "collections.namedtuple", "context": '"os.system"'},
        {"type": "antigravity.Answer", "context": '["scores", "more"]'},
        {"type": "antigravity.Answer", "context": '[["scores"]]'},
        {"type": "builtins.dict", "context": '["a\\" + f() + \\""]'},
    ],
)
def test_a_container_that_would_be_imported(spec, rewrite, refused):
    def change(document):
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = json.dumps([1, {**spec, "children_spec": []}])

    refused(rewrite(change), "is not loaded: .*(arguments or answers|it holds the name)")


# --- operators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.__getattr__.__builtins__",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.aten.relu.no_such_overload",
        "torch.ops.aten.relu.overloads",
        "torch.ops.image.read_file.default",
        "torch.ops.higher_order.inductor_compiled_code",
        "torch.ops.higher_order.__init__",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__",
        "math.factorial",
        "math.comb",
        "#extension:op",
        "os.system",
        "",
    ],
)
def test_an_operator_that_is_none(target, rewrite, refused):
    def change(document):
        _nodes(document)[-1]["target"] = target

    refused(rewrite(change), "its graph calls '.*', which is not an operator of torch and could run code")


@pytest.mark.parametrize(
    "name",
    [
        "from_file.default",
        "save.default",
        "_print.default",
        "_reshape_alias.default",
        "_sparse_coo_tensor_unsafe.default",
        "_index_put_impl_.default",
        "sparse_csr_tensor.crow_col_value_size",
        "segment_reduce.default",
        "embedding_bag.default",
        "_embedding_bag.default",
        "to_sparse.default",
        "set_.source_Tensor",
    ],
)
def test_an_operator_that_reaches_files_or_memory(name, rewrite, refused):
    def change(document):
        _nodes(document)[-1]["target"] = f"torch.ops.aten.{name}"

    refused(rewrite(change), "its graph calls '.*', which is not among the operators that are run: it may reach files")


@pytest.mark.parametrize("exponent", [{"as_int": 10**9}, {"as_sym_int": {"as_name": "s"}}])
def test_a_power_that_takes_for_ever(exponent, rewrite, refused):
    """Python computes it to the last digit, and is not to be interrupted."""

    def change(document):
        given = [{"name": "", "arg": arg, "kind": 1} for arg in ({"as_int": 9}, exponent)]
        outputs = [{"as_sym_int": {"as_name": "power"}}]
        node = {"target": "_operator.pow", "inputs": given, "outputs": outputs, "metadata": {}}
        _nodes(document).insert(0, {**node, "is_hop_single_tensor_return": None})
        document["graph_module"]["graph"]["sym_int_values"]["power"] = {"as_int": 3}

    refused(rewrite(change), "its graph has a power of more than 8, which could take for ever")


def test_an_operator_as_an_argument(rewrite, refused):
    def change(document):
        _nodes(document)[0]["inputs"][0]["arg"] = {"as_operator": "torch.hub.load"}

    refused(rewrite(change), r"its graph calls 'torch\.hub\.load'")


# --- the archive -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["models/model.jsox", "models/x_config.json", "models/other.json", "data/aotinductor/model/x.cpp"]
)
def test_members_that_torch_would_load_too(name, rewrite, refused, exported, act):
    document = json.loads(tiny.member(exported, PROGRAM))
    document["guards_code"] = [act]
    refused(rewrite(extra=[(name, json.dumps(document).encode())]), "no exported network needs|compiled code")


@pytest.mark.parametrize("name", ["models/model.json", "models/MODEL.json", "Models/model.json"])
def test_two_members_of_one_name(name, rewrite, refused, exported):
    refused(rewrite(extra=[(name, tiny.member(exported, PROGRAM))]), "holds .* twice; it is not loaded|needs")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000])
def test_a_graph_that_is_none(content, rewrite, refused):
    refused(rewrite(members={PROGRAM: content}), r"evil\.pt2 is broken: net/models/model\.json")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"config": {"a": 1}}', b'{"config": {"a": {}}}'])
def test_weights_that_are_none(content, rewrite, refused):
    refused(rewrite(members={WEIGHTS: content}), r"evil\.pt2 is broken: net/data/weights/model_weights_config\.json")


def test_a_graph_without_its_weights(rewrite, refused):
    refused(rewrite(members={"weights/weight_0": None}), "cannot be loaded as a torch.export program")


def test_what_explains_is_left_out():
    text = json.dumps(
        {"graph": {"nodes": [{"target": "_operator.mul", "inputs": [], "metadata": {"stack_trace": "a(b)"}}]}}
    )
    (node,) = json.loads(cleaned(text.encode()))["graph"]["nodes"]
    assert node["metadata"] == {}


def test_messages_of_assertions_lose_what_could_end_a_string():
    held = json.loads(cleaned(json.dumps({"as_string": 'it\'s "bad"\\ \n here', "as_strings": ["'", "b"]}).encode()))
    assert held == {"as_string": "its bad  here", "as_strings": ["", "b"]}


# --- and real networks pass ----------------------------------------------------------------------------------------

REAL = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=2),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=2),
    "vit": lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=2),
}


@pytest.mark.parametrize("name", REAL)
def test_real_networks_pass(name, tmp_path):
    with torch.random.fork_rng(devices=[]):
        network = REAL[name]().eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    program = tiny.quietly(torch.export.export, network, (images,), dynamic_shapes=({0: torch.export.Dim("b")},))
    tiny.quietly(torch.export.save, program, str(tmp_path / "net.pt2"))
    loaded = load_exported(tmp_path / "net.pt2", tiny.CPU)
    assert loaded.takes == (None, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.forward(images), network(images))


class _OfAnySize(tiny.TinyNet):
    """Sizes in arithmetic, grad mode and autocast in the graph."""

    def forward(self, image):
        with torch.no_grad():
            brightness = image.mean((1, 2, 3))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.conv(image)
        size = (image.shape[2] // 2, image.shape[3] ** 2 // 20 + 1)
        features = torch.nn.functional.interpolate(features.float(), size=size, mode="bilinear")
        features = torch.nn.functional.pad(features, (1, 1, 1, 1), mode="reflect")
        gram = torch.einsum("bchw,bkhw->bck", features, features).sum(-1)
        return self.fc(gram) + brightness[:, None]


def test_a_network_of_any_size_passes(tmp_path):
    network, path = _OfAnySize().eval(), tmp_path / "net.pt2"
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto},)
    program = tiny.quietly(torch.export.export, network, (torch.rand(3, 1, 12, 10),), dynamic_shapes=shapes)
    tiny.quietly(torch.export.save, program, str(path))
    assert json.loads(tiny.member(path, PROGRAM))["guards_code"]
    loaded = load_exported(path, tiny.CPU)
    assert loaded.takes == (None, 1, None, None)
    for size in ((1, 12, 10), (4, 9, 17)):
        images = torch.rand(size[0], 1, *size[1:])
        torch.testing.assert_close(loaded.forward(images), network(images))


def test_the_decomposed_form_passes(exported, tmp_path, net):
    program = tiny.quietly(lambda: torch.export.load(exported).run_decompositions())
    tiny.quietly(torch.export.save, program, str(tmp_path / "net.pt2"))
    _, logits = tiny.load(tmp_path / "net.pt2")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach(), rtol=1e-5, atol=1e-6)


def test_cleaning_keeps_the_graph(exported):
    document = json.loads(tiny.member(exported, PROGRAM))
    wanted = copy.deepcopy(document)
    for node in _nodes(wanted):
        node["metadata"] = {}
    assert json.loads(cleaned(json.dumps(document).encode())) == wanted


def test_sizes_of_many_kinds_are_arithmetic():
    fine = [
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Integer(-3)",
        "true",
        "Max(1, FloorDiv(Symbol('u0'), -2))",
        "Rational(1, 2)",
        "Mul(Pow(Add(Pow(Symbol('s0'), Integer(2)), 1), 3), Pow(Symbol('s0'), -1))",
    ]
    for text in fine:
        cleaned(json.dumps({"expr_str": text}).encode())
    for text in ["Symbol('a b')", "Symbol(s)", "x", "__import__", "Add(**{})", "Add(*(1,))", "Pow(2, Symbol('s0'))"]:
        with pytest.raises(UnsafeGraphError):
            cleaned(json.dumps({"expr_str": text}).encode())
