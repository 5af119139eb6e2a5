"""What a surrogate learns: the data's labels, or what the candidate answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from building import candidate as candidate_around
from halves import LABELS, SMALL, Project, agreement, halves, halves_project, project_in
from PIL import Image
from torch import nn

from robustcheck.errors import CandidateError, DataError
from robustcheck.evaluation.surrogates.lessons import left_to_training, lessons, not_judged
from robustcheck.models.batches import as_shares
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import DataSpec, PreprocessSpec, TrainSpec

CPU = torch.device("cpu")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    return halves_project(tmp_path, monkeypatch)


class Counted(nn.Module):
    """Reads images the wrong way round, counts them, and may refuse those of one label."""

    def __init__(self, *, refuses: bool = False, always: bool = False) -> None:
        super().__init__()
        self.seen, self.refuses, self.always = 0, refuses, always

    def forward(self, image):
        self.seen += len(image)
        excess = (image[..., :4].mean(dim=(1, 2, 3)) - image[..., 4:].mean(dim=(1, 2, 3))) * 20
        if self.always:
            excess = excess.abs()
        if self.refuses:
            excess = torch.where(torch.arange(len(image)) % 3 == 0, torch.nan, excess)
        return torch.stack([-excess, excess], dim=1)


def test_the_candidate_s_answers_are_learned(project):
    network = Counted()
    project.candidate = candidate_around(network, labels=LABELS)
    (own,) = project.load(train=SMALL | {"labels": "candidate", "queries": 80})
    assert network.seen == 80
    assert own.trained == "trained here for 8 epochs on the candidate's own answers about 80 images"
    assert agreement(own, project) < 0.1  # the data's labels were not looked at


def test_each_image_is_asked_about_once_at_most(project):
    network = Counted()
    project.candidate = candidate_around(network, labels=LABELS)
    (own,) = project.load(train=SMALL | {"labels": "candidate", "queries": 10**6})
    assert network.seen == 120
    assert "about 120 images" in own.trained


def test_nor_again_for_another_surrogate(project):
    """Of an ensemble, or of another gate: what was answered is kept."""
    network = Counted()
    project.candidate = candidate_around(network, labels=LABELS)
    stolen = SMALL | {"labels": "candidate", "queries": 40, "epochs": 1}
    project.load(train=[stolen, stolen | {"epochs": 2}])
    assert network.seen == 40
    (own,) = project.load(train=stolen | {"queries": 50})
    assert network.seen == 50
    assert "about 50 images" in own.trained
    (own,) = project.load(train=stolen | {"seed": 1})
    assert 50 < network.seen < 90
    assert "about 40 images" in own.trained


class Backwards:
    """Images, the last one first."""

    def __init__(self, images) -> None:
        self.space, self._images = images.space, images

    def __len__(self) -> int:
        return len(self._images)

    def shape_of(self, index):
        return self._images.shape_of(len(self) - 1 - index)

    def image(self, index):
        return self._images.image(len(self) - 1 - index)


def test_what_is_stolen_does_not_depend_on_the_order_of_the_split(project):
    project.candidate = candidate_around(Counted(), labels=LABELS)
    spec, split = TrainSpec(**SMALL | {"labels": "candidate", "queries": 8}), project.samples
    backwards = replace(
        split, names=split.names[::-1], labels=split.labels[::-1].copy(), images=Backwards(split.images)
    )
    told = []
    for samples in (split, backwards):
        taught = lessons(spec, samples, range(len(samples)), project.candidate, {})
        told.append([(samples.names[index], int(taught.readings[place])) for place, index in enumerate(taught.chosen)])
    assert len(told[0]) == 8
    assert told[0] == told[1]


def test_images_without_an_answer_are_left_out(project):
    project.candidate = candidate_around(Counted(refuses=True), labels=LABELS)
    (own,) = project.load(train=SMALL | {"labels": "candidate", "queries": 60})
    assert "about 40 images (and 20 that it gave no answer about)" in own.trained


@pytest.mark.parametrize(
    ("network", "queries", "sentence"),
    [
        (
            Counted(always=True),
            60,
            r"the candidate answers right about every image of the train split that it was asked about \(60\)",
        ),
        (Counted(refuses=True), 1, "the candidate gives no answer about every image of the train split"),
    ],
)
def test_one_answer_teaches_nothing(project, network, queries, sentence):
    project.candidate = candidate_around(network, labels=LABELS)
    with pytest.raises(
        CandidateError, match=f"^surrogate nets:small: {sentence}.* teaches nothing; raise train.queries"
    ):
        project.load(train=SMALL | {"labels": "candidate", "queries": queries})


def _no_train_archive(folder):
    images, labels = halves(20, 1)
    np.savez(folder / "test.npz", test_images=images, test_labels=labels)
    return "test.npz"


def _folder(folder):
    for label, image in zip(LABELS, halves(2, 0)[0], strict=True):
        (folder / "scans" / label).mkdir(parents=True)
        Image.fromarray(image).save(folder / "scans" / label / "one.png")
    return "scans"


def _manifest(folder):
    _folder(folder)
    (folder / "scans.csv").write_text("path,label\nscans/left/one.png,left\nscans/right/one.png,right\n")
    return "scans.csv"


def _failing(folder):
    (folder / "mine.py").write_text("def load(split):\n    raise KeyError(split)\n")
    return "mine:load"


WITHOUT = {
    _no_train_archive: "test.npz has no 'train_images'",
    _folder: "scans has no subfolder train: all its images are one split",
    _manifest: "scans.csv has no column split: all its rows are one split",
    _failing: r"mine:load\('train'\) raised KeyError",
}


@pytest.mark.parametrize("make", WITHOUT, ids=lambda make: make.__name__)
def test_a_source_without_a_train_split(make, project):
    source = make(project.folder)
    match = rf"^train: needs a train split of {source} .*{WITHOUT[make]}.*; or leave train out and name a model in surr"
    with pytest.raises(DataError, match=match):
        project.load(train=SMALL, data=DataSpec(source=source))


def _patients(folder, *, columns: str = "patient,split") -> None:
    """Three images each of eight patients, of whom the third image is of the other split than the others."""
    rows = [f"path,label,{columns}"]
    for index, image in enumerate(halves(24, 5)[0]):
        (folder / "scans").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "scans" / f"{index}.png")
        patient, split = index // 3, ["train", "test"][(index // 12 + (index % 3 == 2)) % 2]
        rows.append(f"scans/{index}.png,{LABELS[index % 2]},{patient},{split}")
    (folder / "scans.csv").write_text("\n".join(rows))


def _project_on(project, data: DataSpec) -> Project:
    return project_in(project.folder, project.model, data, candidate=project.candidate)


def test_what_is_judged_is_not_learned_from(project):
    """Where the policy names no split, all rows are judged, those of the train split too."""
    _patients(project.folder)
    own = _project_on(project, DataSpec(source="scans.csv"))
    match = (
        "^train: every image of the train split is also judged, but what is judged must not be learned from: set "
        "data.split: test, or leave train out"
    )
    with pytest.raises(DataError, match=match):
        own.load(train=SMALL)
    (surrogate,) = _project_on(project, DataSpec(source="scans.csv", split="test")).load(train=SMALL | {"epochs": 1})
    assert surrogate.trained.endswith("on 12 images of the train split (the data's labels)")


def test_nor_what_belongs_to_the_same_patient(project):
    _patients(project.folder)
    own = _project_on(project, DataSpec(source="scans.csv", split="test", group="patient", samples=4))
    judged = set(own.samples.group_names)
    split = own.split
    kept = {split.group_names[number] for number in not_judged(split, own.samples)}
    assert kept == set(map(str, range(8))) - judged
    (surrogate,) = own.load(train=SMALL | {"epochs": 1, "labels": "candidate", "queries": 24})
    left_out = sum(name in judged for name in split.group_names)
    assert 0 < left_out < 12
    assert surrogate.trained.endswith(
        f"about {12 - left_out} images; {left_out} of the train split are judged, or of a group that is, and are left "
        "out"
    )


def test_a_split_that_does_not_say_what_belongs_together_is_known_by_its_images(project):
    """In an array a name says where an image stands; the same image may stand in both splits."""
    arrays = dict(np.load(project.folder / "halves.npz"))
    arrays["test_patient"] = np.arange(20)
    arrays["train_images"][[5, 7, 9]] = arrays["test_images"][[1, 1, 3]]
    np.savez(project.folder / "halves.npz", **arrays)
    own = _project_on(project, DataSpec(source="halves.npz", group="patient"))
    assert sorted(set(range(120)) - set(not_judged(own.split, own.samples))) == [5, 7, 9]
    (project.folder / "mine.py").write_text(
        "import numpy as np\n\n"
        "def load(split):\n"
        "    arrays = np.load('" + str(project.folder / "halves.npz") + "')\n"
        "    return arrays['train_images'], arrays['train_labels']\n"
    )
    with pytest.raises(DataError, match="every image of the train split is also judged"):
        _project_on(project, DataSpec(source="mine:load")).load(train=SMALL)


def test_one_label_teaches_nothing(project):
    images, _ = halves(20, 2)
    np.savez(project.folder / "one.npz", train_images=images, train_labels=np.ones((20, 1), int))
    with pytest.raises(
        DataError, match=r"^train: every image of the train split is labelled right: that teaches nothing"
    ):
        project.load(train=SMALL, data=DataSpec(source="one.npz"))


def test_images_of_several_sizes(project):
    for index, image in enumerate(halves(20, 0)[0]):
        file = project.folder / "sizes" / "train" / LABELS[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((8 + index % 3, 8)).save(file)
    with pytest.raises(CandidateError, match=r"^surrogate nets:small: .* of 3 sizes, .* set train.preprocess.resize"):
        project.load(train=SMALL, data=DataSpec(source="sizes"))
    (own,) = project.load(train=SMALL | {"preprocess": {"resize": [8, 8]}}, data=DataSpec(source="sizes"))
    assert "20 images" in own.trained


def test_steps_before_training_are_not_taken_again_in_it(project):
    """Cropped images are not resized and cropped once more."""
    split = project.samples
    taught = lessons(TrainSpec(**SMALL), split, range(len(split)), candidate_around(Counted(), labels=LABELS), {})
    steps = PreprocessSpec(channels=3, order="BGR", resize=12, crop=(6, 7), range=(-1, 1), mean=[0.1, 0.2, 0.3])
    left = left_to_training(steps)
    assert left == PreprocessSpec(range=(-1, 1), mean=[0.1, 0.2, 0.3])
    images = taught.images(steps, CPU)([3, 5])
    whole = Preprocess.of(steps, CPU, project.samples)(as_shares(project.samples, [3, 5], CPU))
    torch.testing.assert_close(Preprocess(left, CPU, maximum=1)(images), whole)


def test_phantoms_have_a_train_split(project):
    (own,) = project.load(train=SMALL | {"epochs": 1}, data=DataSpec(source="phantom:nodule"))
    assert "256 images" in own.trained


def test_findings(tmp_path, project):
    quarters = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 30)
    images = np.random.default_rng(0).integers(90, 150, (2, 120, 8, 8))
    images[:, :, :, :4] += 40 * quarters[:, 0, None, None]
    images[:, :, :, 4:] += 40 * quarters[:, 1, None, None]
    train, test = images.astype(np.uint8)
    np.savez(
        tmp_path / "findings.npz", train_images=train, train_labels=quarters, test_images=test, test_labels=quarters
    )
    model = project.model.model_copy(update={"task": "multilabel", "preprocess": project.model.preprocess})
    several = project_in(tmp_path, model, DataSpec(source="findings.npz"))
    (own,) = several.load(train=SMALL | {"epochs": 20})
    assert own.candidate.head.multilabel
    assert agreement(own, several) > 0.8


@pytest.mark.xrays
def test_x_rays(tmp_path, project, xrays):
    (tmp_path / "xrays.npz").symlink_to(xrays)
    model = project.model.model_copy(update={"labels": ("normal", "pneumonia")})
    real = project_in(tmp_path, model, DataSpec(source="xrays.npz"), candidate=project.candidate)
    (own,) = real.load(train=SMALL | {"epochs": 8, "preprocess": {"mean": 0.5, "std": 0.2}})
    with np.load(xrays) as archive:
        count = len(archive["train_labels"])
    assert own.trained == f"trained here for 8 epochs on {count:,} images of the train split (the data's labels)"
    assert agreement(own, real) > 0.7  # 390 of 624 are of disease
