"""`data.group` and `data.subgroups`: what sources say about each sample besides its image and its label."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from robustcheck.errors import DataError
from robustcheck.results import AuditReport, DataInfo

SIX = ["a", "b", "a", "c", "b", "a"]
SEX = ["F", "M", "F", "F", "M", "M"]
COLUMNS = {"group": "patient_id", "subgroups": ["sex"]}
NAMED = ", which data.group or data.subgroups names"


@pytest.fixture
def archive(tmp_path):
    """Write `data.npz` with six images and members besides."""

    def write(**members):
        images, labels = np.arange(6 * 12, dtype=np.uint8).reshape(6, 3, 4), np.array([0, 1, 1, 0, 1, 0])
        np.savez(tmp_path / "data.npz", test_images=images, test_labels=labels, **members)

    return write


@pytest.fixture
def manifest(tmp_path, save_picture):
    """Write `data.csv` with these columns beside path and label, a row a value, and the pictures that it names."""

    def write(rows, header="patient_id,sex"):
        for index in range(len(rows)):
            save_picture(f"{index}.png", np.full((3, 4), index, np.uint8))
        lines = [f"{index}.png,{('normal', 'sick')[index % 2]},{row}\n" for index, row in enumerate(rows)]
        (tmp_path / "data.csv").write_text(f"path,label,{header}\n{''.join(lines)}")

    return write


@pytest.fixture
def module(tmp_path):
    """Write a module whose `images` returns six images, their labels and what is given."""

    def write(beside):
        returned = f"np.zeros((6, 3, 4), np.uint8), [0, 1] * 3{beside}"
        text = f"import numpy as np\n\n\ndef images(split):\n    return {returned}\n"
        (tmp_path / "scans_with_columns.py").write_text(text)

    return write


def check_six(samples):
    assert samples.groups.tolist() == [0, 1, 0, 2, 1, 0]
    assert samples.groups.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        samples.groups[0] = 1
    assert samples.subgroups == {"sex": tuple(SEX)}
    assert (samples.info.group, samples.info.groups) == ("patient_id", 3)
    assert samples.info.subgroups == {"sex": {"F": 3, "M": 3}}
    assert list(samples.info.subgroups["sex"]) == ["F", "M"]
    assert samples.info.notes[-1] == "subgroups with fewer than 10 samples: sex 'F' (3), sex 'M' (3)"


def test_of_an_archive(archive, load):
    archive(test_patient_id=np.array(SIX), test_sex=np.array(SEX))
    check_six(load("data.npz", **COLUMNS))


def test_of_a_manifest(manifest, load):
    manifest([f" {patient} ,{sex}" for patient, sex in zip(SIX, SEX, strict=True)])
    check_six(load("data.csv", **COLUMNS))


@pytest.mark.parametrize(
    "group",
    [
        SIX,
        tuple(SIX),
        "np.array([7, 2, 7, 5, 2, 7])",
        "list(np.array([7, 2, 7, 5, 2, 7]))",
        "np.array(list('abacba'), dtype=object)",
    ],
)
def test_of_a_callable(module, load, group):
    module(f", {{'patient_id': {group}, 'sex': {SEX}, 'unused': object()}}")
    check_six(load("scans_with_columns:images", **COLUMNS))


def test_integers_are_told_apart_as_they_are_written(archive, load):
    archive(test_age=np.array([40, 7, 40, 7, 40, 7], np.uint8), test_patient_id=np.array([2**63] * 6, np.uint64))
    samples = load("data.npz", group="patient_id", subgroups=["age"])
    assert samples.info.subgroups == {"age": {"40": 3, "7": 3}}
    assert samples.info.groups == 1


def test_none_are_named(archive, load):
    archive(test_sex=np.array(SEX))
    samples = load("data.npz", labels=["0", "1"])
    assert samples.groups is None
    assert samples.subgroups == {} == samples.info.subgroups
    assert samples.info.group is samples.info.groups is None
    assert samples.info.notes == ()


def test_a_callable_may_return_columns_that_nobody_asks_for(module, load):
    module(f", {{'sex': {SEX}}}")
    assert load("scans_with_columns:images").subgroups == {}


def test_the_split_of_a_manifest_may_be_a_subgroup(manifest, load):
    manifest(["a,train"] * 10 + ["b,test"] * 10, header="patient_id,split")
    samples = load("data.csv", subgroups=["split"])
    assert samples.info.subgroups == {"split": {"test": 10, "train": 10}}
    assert not any(note.startswith("subgroups") for note in samples.info.notes)


def test_only_the_rows_of_the_split_need_values(manifest, load):
    manifest(["a,F,test", ",,train", "b,M,test"], header="patient_id,sex,split")
    samples = load("data.csv", split="test", **COLUMNS)
    assert samples.groups.tolist() == [0, 1]
    assert samples.subgroups == {"sex": ("F", "M")}


def test_a_subset_numbers_its_own_groups(archive, load):
    archive(test_patient_id=np.array(["x", *SIX[1:]]), test_sex=np.array(SEX))
    whole = load("data.npz", **COLUMNS)
    assert whole.groups.tolist() == [0, 1, 2, 3, 1, 2]
    part = load("data.npz", samples=2, **COLUMNS)
    places = [whole.names.index(name) for name in part.names]
    assert part.subgroups == {"sex": tuple(SEX[place] for place in places)}
    assert part.groups.tolist() == [0, int(whole.groups[places[0]] != whole.groups[places[1]])]
    assert part.info.groups == len(set(part.groups.tolist()))


def test_small_subgroups_are_noted_also_those_that_the_subset_left_out(manifest, load):
    manifest(["p,F"] * 12 + [f"p,{value}" for value in "GHIJKL"])
    (note,) = load("data.csv", subgroups=["sex"]).info.notes
    assert note == (
        "subgroups with fewer than 10 samples: sex 'G' (1), sex 'H' (1), sex 'I' (1), sex 'J' (1), sex 'K' (1) "
        "and 1 more"
    )
    manifest(["p,F"] * 20 + ["p,G"])
    samples = load("data.csv", samples=10, subgroups=["sex"])
    assert samples.info.subgroups == {"sex": {"F": 10}}
    assert samples.info.notes == ("subgroups with fewer than 10 samples: sex 'G' (0)",)


def test_the_digest_covers_columns_where_they_are_named(archive, load):
    archive(test_patient_id=np.array(SIX), test_sex=np.array(SEX))
    samples = load("data.npz", **COLUMNS)
    lines = [
        json.dumps(
            [
                name,
                ["normal", "sick"][label],
                [1, 3, 4],
                hashlib.sha256(samples.image(index).tobytes()).hexdigest(),
                {"patient_id": SIX[index], "sex": SEX[index]},
            ]
        )
        for index, (name, label) in enumerate(zip(samples.names, samples.labels, strict=True))
    ]
    assert samples.info.sha256 == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_the_digest_sees_values_and_not_how_the_policy_orders_columns(archive, load):
    def digests():
        archive(test_patient_id=np.array(SIX), test_sex=np.array(sex))
        plain, both, swapped, one = (
            load("data.npz", **options).info.sha256
            for options in ({}, {"subgroups": ["sex", "patient_id"]}, {"subgroups": ["patient_id", "sex"]}, COLUMNS)
        )
        assert both == swapped == one != plain
        return plain, both

    sex = list(SEX)
    before = digests()
    sex[5] = "F"
    after = digests()
    assert before[0] == after[0]
    assert before[1] != after[1]


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"group": "patient_id"}, {"subgroups": ["patient_id"]}])
@pytest.mark.parametrize("source", ["phantom:nodule", "medmnist:pneumoniamnist", "scans"])
def test_sources_without_columns(load, tmp_path, source, options):
    (tmp_path / "scans/normal").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        load(source, **options)
    assert str(caught.value) == (
        f"{source}: it has no columns, but data.group or data.subgroups names 'patient_id'; .npz, .csv or "
        "module:callable can have them"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(SIX[:5]), " has the shape (5,); (6,) is needed: one text or integer for each image"),
        (np.array(SIX)[:, None], " has the shape (6, 1); (6,) is needed: one text or integer for each image"),
        (np.zeros(6), " holds float64; one text or integer for each image is needed"),
        (np.zeros(6, bool), " holds bool; one text or integer for each image is needed"),
        (np.array([b"a"] * 6), " holds |S1; one text or integer for each image is needed"),
        (np.zeros(6, "M8[D]"), " holds datetime64[D]; one text or integer for each image is needed"),
        (np.array([*SIX[:5], " "]), ": the value at index 5 is empty; every sample needs one"),
        (np.array([*SIX[:5], "x" * 201]), ": the value at index 5 has 201 characters; at most 200 are allowed"),
        (np.array(["a\x1b[2J"] * 6), ": the value at index 0 is 'a\\x1b[2J', which cannot be written in a report"),
        (np.array(["\ud800"] * 6), ": the value at index 0 is '\\ud800', which cannot be written in a report"),
    ],
)
def test_members_that_are_no_column(archive, load, values, message):
    archive(test_patient_id=values)
    with pytest.raises(DataError) as caught:
        load("data.npz", group="patient_id")
    assert str(caught.value) == f"data.npz: test_patient_id{message}"


def test_a_member_that_is_not_there(archive, load):
    archive(test_patient_id=np.array(SIX), train_sex=np.array(SEX))
    with pytest.raises(DataError) as caught:
        load("data.npz", group="patien_id")
    assert str(caught.value) == (
        f"data.npz has no 'test_patien_id'{NAMED}; did you mean 'test_patient_id'?; it holds test_images, test_labels, "
        "test_patient_id, train_sex"
    )


def forged_column(shape, descr, body=b""):
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + body


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (forged_column((10**12,), "<U9"), "its header claims 36000000000000 bytes"),
        (forged_column((10**12,), "<U0"), "holds <U0, whose values take no bytes"),
        (forged_column((6,), "|O", b"\x80\x04N."), "pickled objects never"),
        (forged_column((6,), "<U1", b"\xff" * 24), "it cannot be read: "),  # beyond Unicode
        (forged_column((), "<U1", b"\0" * 4), r"has the shape \(\); one entry per sample is needed"),
    ],
)
def test_a_forged_column_ends_in_a_sentence(archive, load, tmp_path, member, message):
    archive()
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as file:
        file.writestr("test_patient_id.npy", member)
    with pytest.raises(DataError, match=rf"^data.npz: test_patient_id.*{message}"):
        load("data.npz", group="patient_id")


def test_labels_without_bytes_may_not_claim_any_number(archive, load, tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        for name, descr in (("images", "|u1"), ("labels", "<U0")):
            file.writestr(f"test_{name}.npy", forged_column((10**12 if descr == "<U0" else 0,), descr))
    with pytest.raises(DataError, match=r"test_labels holds <U0, whose values take no bytes"):
        load("data.npz")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "patient,sex",
            f"data.csv:1: no column 'patient_id'{NAMED}; did you mean 'patient'?; the header is path, label, patient, "
            "sex",
        ),
        ("patient_id,age", f"data.csv:1: no column 'sex'{NAMED}; the header is path, label, patient_id, age"),
        ("patient_id,sex,sex", "data.csv:1: the column 'sex' appears twice"),
        ("patient_id,sex,split,split", "data.csv:1: the column 'split' appears twice"),
    ],
)
def test_headers(manifest, load, header, message):
    manifest([], header=header)
    with pytest.raises(DataError) as caught:
        load("data.csv", **COLUMNS)
    assert str(caught.value) == message


def test_a_column_that_is_there_twice_is_no_mistake_where_it_is_not_named(manifest, load):
    manifest(["a,F,F"], header="patient_id,sex,sex")
    assert load("data.csv", group="patient_id").info.groups == 1


def test_every_cell_that_is_no_value_has_its_line(manifest, load):
    manifest(["a,F", " ,F", f"b,{'x' * 201}", "c\x07,"])
    with pytest.raises(DataError) as caught:
        load("data.csv", **COLUMNS)
    assert str(caught.value).splitlines() == [
        "data.csv:3: patient_id is empty; every sample needs one",
        "data.csv:4: sex has 201 characters; at most 200 are allowed",
        "data.csv:5: patient_id is 'c\\x07', which cannot be written in a report",
        "data.csv:5: sex is empty; every sample needs one",
    ]


def test_a_subgroup_has_fifty_values_and_a_group_as_many_as_it_likes(manifest, load):
    manifest([f"{index},{index % 50}" for index in range(51)])
    samples = load("data.csv", **COLUMNS)
    assert samples.info.groups == 51
    assert len(samples.info.subgroups["sex"]) == 50
    with pytest.raises(DataError) as caught:
        load("data.csv", samples=4, subgroups=["patient_id"])
    assert str(caught.value) == (
        "data.csv: data.subgroups names 'patient_id', which has 51 values (0, 1, 2 and 48 more); at most 50 are "
        "allowed: put numbers into ranges, and if it says whose image each is, name it in data.group"
    )


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (
            "",
            f" returned a pair (images, labels), but no column 'sex'{NAMED}; return (images, labels, columns), the "
            "last a mapping from each column's name to a value for each image",
        ),
        (
            ", [1]",
            ": its columns are list; a mapping from each column's name to a value for each image is needed, such as a "
            "dict",
        ),
        (", {'sexx': [], 3: []}", f" returned no column 'sex'{NAMED}; did you mean 'sexx'?; its columns are sexx, 3"),
        (
            ", {'sex': ['F']}",
            ": its column 'sex' has the shape (1,); (6,) is needed: one text or integer for each image",
        ),
        (", {'sex': None}", ": its column 'sex' has the shape (); (6,) is needed: one text or integer for each image"),
        (", {'sex': np.zeros(6)}", ": its column 'sex' holds float64; one text or integer for each image is needed"),
        *(
            (f", {{'sex': {given}}}", f": its column 'sex' has {found}; one text or integer for each image is needed")
            for given, found in {
                "['F', None] * 3": "None at index 1",
                "np.array(['F', None] * 3, object)": "None at index 1",
                "['F', 'M', float('nan')] * 2": "nan at index 2",
                "[7, 1.5] * 3": "1.5 at index 1",
                "['F', True] * 3": "True at index 1",
                "[1, True] * 3": "True at index 1",
                "('F', b'M') * 3": "b'M' at index 1",
            }.items()
        ),
        (
            ", {'sex': ['F', 'F', 1] * 2}",
            ": its column 'sex' has 'F' at index 0 and 1 at index 2; give only texts, or only integers",
        ),
        (
            ", {'sex': np.ma.masked_equal([1, 2, 3] * 2, 2)}",
            ": its column 'sex' is a masked array: index 1 has no value; one text or integer for each image is needed",
        ),
        (", {'sex': np.ma.array([1, 2, 3] * 2)}", ": its column 'sex' is a masked array; one text or integer for each"),
        (", {'sex': [10**5000] * 6}", ": its column 'sex': it cannot be read: ValueError: Exceeds the limit"),
        (", {}, {}", " returned tuple; a pair (images, labels) is needed, or (images, labels, columns)"),
    ],
)
def test_callables_that_return_no_column(module, load, beside, message):
    module(beside)
    with pytest.raises(DataError) as caught:
        load("scans_with_columns:images", subgroups=["sex"])
    assert str(caught.value).startswith(f"scans_with_columns:images{message}")


def test_reports_from_before_there_were_columns_are_read():
    old = (
        '{"verdict": "pass", "policy": {"path": "", "name": "", "sha256": ""}, "data": {"source": "a", "split": null,'
        ' "sha256": "", "samples": 1, "available": 1, "by_label": {}, "bits": 8, "shape": null, "synthetic": false}}'
    )
    data = AuditReport.from_json(old).data
    assert isinstance(data, DataInfo)
    assert (data.group, data.groups, data.subgroups, data.prevalence) == (None, None, {}, None)
    assert AuditReport.from_json(old).health is None
