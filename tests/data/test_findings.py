"""Several labels an image, from every source that can hold them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from robustcheck.errors import DataError

THREE = ["effusion", "nodule", "mass"]
FINDINGS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], np.uint8)
READINGS = [0b101, 0, 0b010, 0b111]
IMAGES = np.arange(4 * 12, dtype=np.uint8).reshape(4, 3, 4)


@pytest.fixture
def findings(load):
    """Load a source for a multilabel policy with three labels."""
    return lambda source, **options: load(source, **{"task": "multilabel", "labels": THREE, **options})


@pytest.fixture
def archive(tmp_path):
    """Write `data.npz` with these labels."""
    return lambda labels, name="data.npz": np.savez(tmp_path / name, test_images=IMAGES, test_labels=labels)


@pytest.fixture
def manifest(tmp_path, save_picture):
    """Write `data.csv` with a row for each label cell, and its picture."""

    def write(*cells):
        for index in range(len(cells)):
            save_picture(f"{index}.png", IMAGES[0] + index)
        rows = "".join(f"{index}.png,{cell}\n" for index, cell in enumerate(cells))
        (tmp_path / "data.csv").write_text(f"path,label\n{rows}")

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_archives_have_a_column_a_finding(archive, findings, dtype):
    archive(FINDINGS.astype(dtype))
    samples = findings("data.npz")
    assert samples.labels.tolist() == READINGS
    assert samples.labels.dtype == np.int64
    assert samples.info.by_label == {"effusion": 2, "nodule": 2, "mass": 2}
    assert samples.info.notes == ()


def test_one_finding_is_enough(archive, findings):
    archive(FINDINGS[:, :1])
    assert findings("data.npz", labels=["effusion"]).labels.tolist() == [1, 0, 0, 1]


def test_sixty_two_findings(archive, findings):
    archive(np.ones((4, 62), np.uint8))
    assert findings("data.npz", labels=[f"f{index}" for index in range(62)]).labels.tolist() == [2**62 - 1] * 4


def test_chestmnist_is_an_archive_like_any_other(archive, findings):
    labels = np.eye(14, dtype=np.uint8)[[0, 5, 13, 13]]
    archive(labels, "chestmnist.npz")
    samples = findings("medmnist:chestmnist", root=".", labels=[f"f{index}" for index in range(14)])
    assert samples.labels.tolist() == [1, 1 << 5, 1 << 13, 1 << 13]
    assert samples.info.by_label["f13"] == 2
    assert "no sample is labelled 'f1'" in samples.info.notes


def test_a_callable_returns_a_column_a_finding(tmp_path, findings):
    (tmp_path / "scans_with_findings.py").write_text(
        "import numpy as np\n\n\ndef images(split):\n"
        "    return np.zeros((2, 3, 3), np.uint8), [[1, 0, 1], [False, False, True]]\n"
    )
    assert findings("scans_with_findings:images").labels.tolist() == [0b101, 0b100]


def test_manifests_have_names_in_one_cell(manifest, findings):
    manifest("effusion|mass", "-", " nodule ", "mass | nodule|effusion", "")
    samples = findings("data.csv")
    assert samples.labels.tolist() == [0b101, 0, 0b010, 0b111, 0]
    assert samples.names == ("0.png", "1.png", "2.png", "3.png", "4.png")


def test_an_empty_cell_may_be_a_missing_label(manifest, findings):
    manifest("effusion", "", "mass", "")
    note = "rows of data.csv whose label is empty are read as no finding: 2, first line 3"
    assert findings("data.csv").info.notes == (note, "no sample is labelled 'nodule'")
    manifest("effusion|mass|nodule", "-", "", "No Finding")
    assert findings("data.csv").info.notes == (
        "rows of data.csv whose label is empty are read as no finding, as -, No Finding is in others: 1, first line 4",
    )


def test_a_label_may_look_like_a_separator(manifest, findings):
    manifest("a|b", "-", "")
    assert findings("data.csv", labels=["a|b", "-"]).labels.tolist() == [0b01, 0b10, 0]


def test_every_mistake_of_a_manifest_has_its_line(manifest, findings):
    manifest("effusion|nodul", "mass", "mass|mass", "mass||nodule", "1")
    with pytest.raises(DataError) as caught:
        findings("data.csv")
    several = "it has effusion, nodule, mass, several of which are separated by |, and none is written as nothing or -"
    several += "; take out findings that the model does not report"
    assert str(caught.value).splitlines() == [
        f"data.csv:2: the policy has no label 'nodul'; did you mean 'nodule'?; {several}",
        "data.csv:4: the label 'mass' appears twice",
        f"data.csv:5: the policy has no label ''; {several}",
        f"data.csv:6: the policy has no label '1'; {several}",
    ]


def test_no_finding_alone_is_none_unless_a_label_is_called_so(manifest, findings):
    manifest("No Finding", "mass", "no finding", "NO FINDING")
    assert findings("data.csv").labels.tolist() == [0, 0b100, 0, 0]
    manifest("No Finding", "No Finding|mass", "mass")
    assert findings("data.csv", labels=[*THREE, "No Finding"]).labels.tolist() == [0b1000, 0b1100, 0b100]
    with pytest.raises(
        DataError, match=r"^data.csv:3: the policy has no label 'No Finding'; it has effusion, nodule, mass, "
    ):
        findings("data.csv")
    manifest("no finding")
    with pytest.raises(DataError, match=r"no label 'no finding'; did you mean 'No Finding'\?; it has effusion"):
        findings("data.csv", labels=[*THREE, "No Finding"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (FINDINGS[:, :2], r"holds uint8 of the shape \(4, 2\); a .* with 3 labels \(effusion, nodule, mass\)"),
        (FINDINGS[:, 0], r"shape \(4,\); .* needs integers \(N, 3\), 1 where .* not; did you mean task: multiclass\?"),
        (FINDINGS[:, :1], r"shape \(4, 1\); .*; did you mean task: multiclass\?"),
        (FINDINGS.astype(float), r"holds float64 of the shape \(4, 3\); .* needs integers \(N, 3\).* not$"),
        (FINDINGS.astype(int) * -1, r"holds -1 \(first at index 0, column 0, 'effusion'\); 1 .* and 0 .*; -1 often"),
        (FINDINGS * 2, r"holds 2 \(first at index 0, column 0, .*; 1 \(present\) and 0 \(absent\) are allowed$"),
        (FINDINGS[:3], "holds 4 images, but there are 3 labels"),
    ],
)  # fmt: skip
def test_mistakes_of_an_archive(archive, findings, labels, message):
    archive(labels)
    with pytest.raises(DataError, match=message):
        findings("data.npz")


def test_several_findings_for_a_task_of_one_label(archive, load):
    archive(FINDINGS)
    with pytest.raises(DataError, match=r"shape \(4, 3\).*one label per image; several are for task: multilabel$"):
        load("data.npz", labels=THREE)


def test_sources_of_one_label_an_image_are_refused(findings, save_picture):
    save_picture("scans/nodule/a.png", IMAGES[0])
    for source in ("scans", "phantom:nodule"):
        with pytest.raises(
            DataError, match=rf"^{source}: it has one label per image; a multilabel task takes .npz, .csv"
        ):
            findings(source)


def test_the_digest_lists_a_samples_findings(archive, findings):
    archive(FINDINGS)
    samples = findings("data.npz")
    lines = [
        json.dumps([name, found, [1, 3, 4], hashlib.sha256(samples.image(index).tobytes()).hexdigest()])
        for index, (name, found) in enumerate(
            zip(samples.names, [["effusion", "mass"], [], ["nodule"], THREE], strict=True)
        )
    ]
    assert samples.info.sha256 == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_a_subset_keeps_the_shares_of_findings(tmp_path, findings):
    random = np.random.default_rng(0)
    labels = (random.random((1000, 3)) < [0.5, 0.1, 0.02]).astype(np.uint8)
    np.savez(tmp_path / "data.npz", test_images=np.zeros((1000, 2, 2), np.uint8), test_labels=labels)
    part = findings("data.npz", samples=100)
    assert (part.info.samples, part.info.available) == (100, 1000)
    for label, column in zip(THREE, labels.T, strict=True):
        assert part.info.by_label[label] == pytest.approx(column.sum() / 10, abs=3)
