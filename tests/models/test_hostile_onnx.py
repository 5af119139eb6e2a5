"""ONNX files that reach outside their folder, need code that is not run, or are not what they claim."""

from __future__ import annotations

import os
import re

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import CandidateError
from robustcheck.models.onnx.file import onnx_files
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import PreprocessSpec

WEIGHTS = np.random.default_rng(0).normal(size=(tiny.HEIGHT * tiny.WIDTH, 2)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    """A linear network; `store` writes it."""
    return tiny.save_linear_onnx(tmp_path / "net.onnx", WEIGHTS)


@pytest.fixture
def store(tmp_path):
    def save(model):
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return save


def _outsource(tensor, *entries):
    """Make a tensor's data external, and return them."""
    content = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return content


# --- external data -----------------------------------------------------------------------------------------------


def test_external_data_inside_the_folder(model, store, tmp_path):
    (tmp_path / "sub").mkdir()
    content = _outsource(model.graph.initializer[0], ("location", "sub/weights.bin"))
    (tmp_path / "sub" / "weights.bin").write_bytes(content)
    candidate, logits = tiny.load(store(model))
    np.testing.assert_allclose(logits, tiny.pictures().shares().flatten(1).numpy() @ WEIGHTS, rtol=1e-5)
    assert [file.path for file in candidate.info.files] == ["net.onnx", "sub/weights.bin"]


def test_external_data_that_git_lfs_has_not_fetched(model, store, refused, tmp_path):
    _outsource(model.graph.initializer[0], ("location", "weights.bin"))
    (tmp_path / "weights.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n")
    refused(store(model), r"external data file 'weights\.bin', which is a Git LFS pointer, .*`git lfs pull`")


@pytest.fixture
def outside(tmp_path):
    """A file with the right bytes that is not the model's."""
    folder = tmp_path.parent / f"{tmp_path.name}-outside"
    folder.mkdir()
    (folder / "secret.bin").write_bytes(WEIGHTS.tobytes())
    return folder / "secret.bin"


def test_a_path_above_the_folder(model, store, refused, outside):
    _outsource(model.graph.initializer[0], ("location", f"../{outside.parent.name}/secret.bin"))
    refused(store(model), r"net\.onnx names external data outside its folder: '\.\./.*'; it is not read")


def test_a_path_above_the_folder_and_back(model, store, refused, tmp_path):
    content = _outsource(model.graph.initializer[0], ("location", f"sub/../../{tmp_path.name}/weights.bin"))
    (tmp_path / "weights.bin").write_bytes(content)
    (tmp_path / "sub").mkdir()
    refused(store(model), "names external data outside its folder")


def test_an_absolute_path(model, store, refused, outside):
    _outsource(model.graph.initializer[0], ("location", str(outside)))
    refused(store(model), "names external data outside its folder: '/.*'; it is not read")


def test_a_symbolic_link(model, store, refused, outside, tmp_path):
    _outsource(model.graph.initializer[0], ("location", "weights.bin"))
    (tmp_path / "weights.bin").symlink_to(outside)
    refused(store(model), "names external data through a symbolic link: 'weights.bin'; it is not read")


def test_a_folder_that_is_a_symbolic_link(model, store, refused, outside, tmp_path):
    _outsource(model.graph.initializer[0], ("location", "sub/secret.bin"))
    (tmp_path / "sub").symlink_to(outside.parent)
    refused(store(model), "names external data through a symbolic link: 'sub/secret.bin'")


def test_a_hard_link(model, store, refused, outside, tmp_path):
    _outsource(model.graph.initializer[0], ("location", "weights.bin"))
    os.link(outside, tmp_path / "weights.bin")
    refused(store(model), "names external data with a hard link elsewhere: 'weights.bin'; it is not read")


@pytest.mark.parametrize("location", ["x" * 5000, "sub/" * 3000 + "w"])
def test_a_name_that_no_file_system_holds(location, model, store, refused):
    _outsource(model.graph.initializer[0], ("location", location))
    refused(store(model), r"net\.onnx needs its external data file '(x|sub/){25,100}': File name too long")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_missing_file_a_folder_and_a_pipe(model, store, refused, tmp_path):
    _outsource(model.graph.initializer[0], ("location", "weights.bin"))
    refused(store(model), "needs its external data file 'weights.bin', which is not there$")
    (tmp_path / "weights.bin").mkdir()
    refused(store(model), "needs its external data file 'weights.bin', which is not a plain file$")
    (tmp_path / "weights.bin").rmdir()
    os.mkfifo(tmp_path / "weights.bin")
    refused(store(model), "needs its external data file 'weights.bin', which is not a plain file$")


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [("location", "")],
        [("location", "weights.bin"), ("location", "/etc/passwd")],
        [("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096"), ("length", "240")],
    ],
)
def test_no_one_place(entries, model, store, refused, tmp_path):
    content = _outsource(model.graph.initializer[0], *entries)
    (tmp_path / "weights.bin").write_bytes(content)
    (tmp_path / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (tmp_path / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(content)
    path = store(model)
    if entries:
        refused(path, r"keeps the tensor 'w' in an external file but does not name one: \[")
    else:
        refused(path, r"net\.onnx")


@pytest.mark.parametrize("range_", [("offset", "1000000"), ("offset", "-8"), ("length", "4"), ("offset", "x")])
def test_a_range_that_is_not_in_the_file(range_, model, store, refused, tmp_path):
    content = _outsource(model.graph.initializer[0], ("location", "weights.bin"), range_)
    (tmp_path / "weights.bin").write_bytes(content)
    refused(store(model), r"net\.onnx")


def _branch(name, *nodes, initializer=()):
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), name, [], [output], list(initializer))


def test_a_tensor_of_an_attribute_in_a_branch(model, store, refused, outside):
    """A constant inside a subgraph of an If: only a walk over the whole file finds it."""
    hidden = numpy_helper.from_array(WEIGHTS, "hidden")
    _outsource(hidden, ("location", f"../{outside.parent.name}/secret.bin"))
    constant = helper.make_node("Constant", [], ["held"])
    constant.attribute.append(helper.make_attribute("value", hidden))
    then = _branch("chosen", constant, helper.make_node("MatMul", ["flat", "held"], ["chosen"]))
    other = _branch("other", helper.make_node("MatMul", ["flat", "w"], ["other"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[-1].CopyFrom(helper.make_node("If", ["yes"], ["scores"], then_branch=then, else_branch=other))
    refused(store(model), "names external data outside its folder")
    hidden.external_data[0].value = str(outside)
    then.node[0].attribute[0].CopyFrom(helper.make_attribute("value", hidden))
    model.graph.node[-1].CopyFrom(helper.make_node("If", ["yes"], ["scores"], then_branch=then, else_branch=other))
    refused(store(model), "names external data outside its folder")


def test_a_tensor_of_a_function(model, store, refused, outside):
    hidden = numpy_helper.from_array(WEIGHTS, "hidden")
    _outsource(hidden, ("location", str(outside)))
    constant = helper.make_node("Constant", [], ["y"])
    constant.attribute.append(helper.make_attribute("value", hidden))
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Weights", [], ["y"], [constant], opsets))
    refused(store(model), "names external data outside its folder")


# --- graphs ------------------------------------------------------------------------------------------------------


def test_operators_that_need_code(model, store, refused):
    model.graph.node[-1].domain = "com.example.secret"
    model.opset_import.append(helper.make_opsetid("com.example.secret", 1))
    refused(store(model), r"net\.onnx uses custom operators \(com\.example\.secret\), which need code that is not run")


def test_a_domain_that_would_command_a_terminal(model, store, refused):
    model.graph.node[-1].domain = domain = "com.example\x1b[2J\n::add-mask::x"
    model.opset_import.append(helper.make_opsetid(domain, 1))
    refused(store(model), r"uses custom operators \(com\.example\\x1b\[2J\\n::add-mask::x\), which need code")


def test_operators_that_need_code_in_a_branch(model, store, refused):
    evil = _branch("chosen", helper.make_node("Act", ["flat"], ["chosen"], domain="com.example.secret"))
    good = _branch("other", helper.make_node("MatMul", ["flat", "w"], ["other"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "no"))
    model.graph.node[-1].CopyFrom(helper.make_node("If", ["no"], ["scores"], then_branch=evil, else_branch=good))
    model.opset_import.append(helper.make_opsetid("com.example.secret", 1))
    refused(store(model), r"uses custom operators \(com\.example\.secret\)")


def test_a_domain_that_nothing_uses_is_fine(model, store):
    """Exporters and optimisers list more than the graph needs."""
    model.opset_import.append(helper.make_opsetid("ai.onnx.training", 1))
    model.opset_import.append(helper.make_opsetid("com.example.unused", 1))
    np.testing.assert_allclose(
        tiny.load(store(model))[1], tiny.pictures().shares().flatten(1).numpy() @ WEIGHTS, rtol=1e-5
    )


def test_functions_of_the_file_itself_are_fine(model, store):
    opsets = [helper.make_opsetid("", 17)]
    double = helper.make_function("local", "Double", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], opsets)
    model.functions.append(double)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(helper.make_node("Double", ["half"], ["scores"], domain="local"))
    _, logits = tiny.load(store(model))
    np.testing.assert_allclose(logits, 2 * (tiny.pictures().shares().flatten(1).numpy() @ WEIGHTS), rtol=1e-5)


def test_old_files_whose_weights_are_no_inputs_as_optimisers_leave_them(model, store, refused):
    model.ir_version, model.opset_import[0].version = 3, 9
    expected = tiny.pictures().shares().flatten(1).numpy() @ WEIGHTS
    np.testing.assert_allclose(tiny.load(store(model))[1], expected, rtol=1e-5)
    model.graph.node[-1].op_type = "NoSuchOperator"
    refused(store(model), r"net\.onnx is not valid ONNX: .*NoSuchOperator")


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_value_without_a_shape_is_named(which, model, store, refused):
    (value,) = getattr(model.graph, which)
    value.type.tensor_type.ClearField("shape")
    refused(store(model), rf"net\.onnx is not valid ONNX: it gives no shape for {value.name}; export it with one")


def test_an_operator_that_does_not_exist(model, store, refused):
    model.graph.node[-1].op_type = "NoSuchOperator"
    sentence = (
        r"net\.onnx is not valid ONNX: NoSuchOperator is no operator of ONNX; the converter left it there from another "
        "framework: replace the layer or function that it comes from before you convert the network$"
    )
    refused(store(model), sentence)


def test_an_opset_that_nobody_knows(model, store, refused):
    newest = onnx.defs.onnx_opset_version()
    model.opset_import[0].version = newest + 1
    refused(
        store(model),
        rf"net\.onnx has operators of opset {newest + 1}, .* up to {newest}: export it with an older opset",
    )


def test_a_weight_that_is_missing(model, store, refused):
    del model.graph.initializer[:]
    refused(
        store(model), r"valid ONNX: nothing before it makes '\w+', which an operator reads: a weight or an input is"
    )


def test_a_file_that_gives_no_version_of_its_format(model, store, refused):
    model.ir_version = 0
    refused(store(model), r"net\.onnx is not valid ONNX: .*ir_version")


def test_an_operator_that_the_opset_does_not_have_yet(model, store, refused):
    model.opset_import[0].version = 11
    model.graph.node.append(helper.make_node("Einsum", ["scores"], ["sums"], equation="ij->ij"))
    refused(store(model), "opset 11 has no operator Einsum, which is known from 12 on: export it with a newer opset$")


def test_an_empty_graph(model, store, refused):
    empty = onnx.ModelProto()
    empty.CopyFrom(model)
    del empty.graph.node[:]
    refused(store(empty), "net.onnx is not an ONNX model: its graph is empty")
    del model.graph.output[:]
    refused(store(model), "net.onnx is not an ONNX model: its graph is empty")


def test_no_input(model, store, refused):
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 6, 5), np.float32), "image"))
    del model.graph.input[:]
    refused(store(model), "has 0 inputs .*; one image is needed")


def test_constants_that_keras_leaves_as_inputs(model, store, refused):
    mean, deviation = (f"functional_1/normalization_1/{name}:0" for name in ("Sub/y", "Sqrt/x"))
    model.graph.input.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, [1, 1, 1, 1]))
    refused(store(model), r"has 2 inputs .*: put Rescaling\(1 / sqrt\(variance\), -mean / sqrt\(variance\)\) in its")
    model.graph.input.append(helper.make_tensor_value_info(deviation, TensorProto.FLOAT, [1, 1, 1, 1]))
    refused(
        store(model), rf"has 3 inputs \(image, {mean}, {deviation}\); one .* alone; Keras leaves the mean and variance"
    )


def test_the_mean_that_keras_leaves_as_an_input_in_its_caffe_mode(model, store, refused):
    mean = "functional_5_1/Squeeze/input:0"
    model.graph.input.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, [3]))
    match = r"has 2 inputs .*: export the network without that and put preprocess: (\{.*\}) in the policy, or write it"
    with pytest.raises(CandidateError, match=match) as caught:
        tiny.load(store(model))
    advised = yaml.safe_load(re.search(match, str(caught.value))[1])
    shares = torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1)
    made = Preprocess(PreprocessSpec(**advised), torch.device("cpu"), maximum=255)(shares).flatten()
    torch.testing.assert_close(made, torch.tensor([51.0, 127.5, 255.0]) - torch.tensor([103.939, 116.779, 123.68]))


@pytest.mark.parametrize("names", [["dropout/keep_prob:0"], ["net/age:0", "net/mean:0"]])
def test_other_inputs_within_a_network_are_not_taken_for_the_caffe_mode_of_keras(names, model, store):
    for name in names:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [3] if names[1:] else []))
    with pytest.raises(CandidateError, match=r"inputs .*, or export a wrapper that takes the image alone$"):
        tiny.load(store(model))


@pytest.mark.parametrize("dims", [[10**12, 2], [2**62, 2**62], [-3, 2], [30, 3]])
def test_an_initializer_of_an_absurd_shape(dims, model, store, refused):
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    refused(store(model), r"net\.onnx")


@pytest.mark.parametrize("turned", [False, True])
def test_a_small_file_that_asks_for_a_large_tensor(turned, model, store, refused):
    """In whatever order its operators are."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**6, 10**6]), "sizes"))
    zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sizes"], ["huge"], value=zero))
    model.graph.node.insert(1, helper.make_node("ReduceMean", ["huge"], ["mean"], keepdims=0))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Add", ["before", "mean"], ["scores"]))
    if turned:
        nodes = list(reversed(model.graph.node))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    refused(store(model), r"net\.onnx computes a tensor of 1000000×1000000 \('huge'\), which is 1\.0e\+12 numbers")


def test_a_branch_that_asks_for_a_large_tensor(model, store, refused):
    zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    large = _branch(
        "chosen",
        helper.make_node("ConstantOfShape", ["sizes"], ["huge"], value=zero),
        helper.make_node("ReduceMean", ["huge"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["flat", "w"], ["small"]),
        helper.make_node("Add", ["small", "mean"], ["chosen"]),
        initializer=[numpy_helper.from_array(np.array([10**6, 10**6]), "sizes")],
    )
    other = _branch("other", helper.make_node("MatMul", ["flat", "w"], ["other"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[-1].CopyFrom(helper.make_node("If", ["yes"], ["scores"], then_branch=large, else_branch=other))
    refused(store(model), r"net\.onnx computes a tensor of 1000000×1000000 \('huge'\)")


def test_a_tensor_that_takes_more_than_half_of_the_memory(model, store, refused, monkeypatch):
    tiny.load(store(model))
    monkeypatch.setattr("robustcheck.models.onnx.file.memory_limit", lambda: 100)
    refused(store(model), r"net\.onnx computes a tensor of 1×30 \('flat'\), .*; at most 2\.5e\+01 are computed")


def test_a_file_that_claims_to_be_too_large(model, store, refused, tmp_path):
    path = store(model)
    os.truncate(path, 2 * 1024**3)  # sparse: it takes no room
    refused(path, r"net\.onnx is 2 GiB or larger")


def test_the_check_comes_before_anything_is_run(model, store, monkeypatch, outside, refused):
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("a session was started"))
    _outsource(model.graph.initializer[0], ("location", str(outside)))
    refused(store(model), "outside its folder")


def test_files_are_listed_once_and_in_order(model, store, tmp_path):
    second = numpy_helper.from_array(WEIGHTS, "second")
    model.graph.initializer.append(second)
    for tensor, name in zip(model.graph.initializer, ("b.bin", "a.bin"), strict=True):
        (tmp_path / name).write_bytes(_outsource(tensor, ("location", name)))
    third = numpy_helper.from_array(WEIGHTS, "third")
    _outsource(third, ("location", "a.bin"))
    model.graph.initializer.append(third)
    assert [file.name for file in onnx_files(store(model))] == ["net.onnx", "a.bin", "b.bin"]
    assert torch.equal(tiny.load(tmp_path / "net.onnx")[1], tiny.load(tmp_path / "net.onnx")[1])
