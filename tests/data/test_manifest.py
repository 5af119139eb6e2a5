from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustcheck.data.mistakes import Mistakes
from robustcheck.errors import DataError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def manifest(tmp_path, save_picture):
    """Write `data.csv` beside the pictures a.png, b.png and sub/c.png."""
    for index, name in enumerate(("a.png", "b.png", "sub/c.png")):
        save_picture(name, GREY + index)

    def write(text, encoding="utf-8", name="data.csv"):
        data = text if isinstance(text, bytes) else text.encode(encoding)
        (tmp_path / name).write_bytes(data)

    return write


def test_rows_in_their_order(manifest, load):
    manifest("path,label\nb.png,sick\nsub/c.png,normal\na.png,sick\n")
    samples = load("data.csv")
    assert samples.names == ("b.png", "sub/c.png", "a.png")
    assert samples.labels.tolist() == [1, 0, 1]
    assert (samples.image(1) == GREY + 2).all()
    assert samples.info.split is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_spreadsheets_dialects(manifest, load, encoding, delimiter, newline):
    rows = [["label", "path", "note, if any"], ["sick", "a.png", "né"], ["normal", '"b.png"', ""]]
    rows[0][2] = '"note, if any"'
    manifest(newline.join(delimiter.join(row) for row in rows), encoding=encoding)
    samples = load("data.csv")
    assert samples.names == ("a.png", "b.png")
    assert samples.labels.tolist() == [1, 0]


def test_labels_by_number(manifest, load):
    manifest("path,label\na.png,1\nb.png,0\n")
    samples = load("data.csv")
    assert samples.labels.tolist() == [1, 0]
    assert samples.info.notes == (
        "labels are numbers, places in model.labels from 0: 0 is normal (1 sample), 1 is sick (1 sample)",
    )


def test_numbers_that_begin_at_one_are_noted(manifest, load):
    manifest("path,label\na.png,1\nb.png,2\n")
    assert load("data.csv", labels=["normal", "sick", "unclear"]).info.notes == (
        "labels are numbers, places in model.labels from 0: 0 is normal (0 samples), 1 is sick (1 sample), "
        "2 is unclear (1 sample)",
        "no sample is labelled 'normal': labels are numbers, which count from 0, but none is 0",
    )
    manifest("path,label\na.png,sick\n")
    assert load("data.csv").info.notes == ("no sample is labelled 'normal'",)


def test_labels_that_are_named_with_digits(manifest, load):
    manifest("path,label\na.png,1\nb.png,0\n")
    assert load("data.csv", labels=["1", "0"]).labels.tolist() == [0, 1]


def test_a_number_among_names_is_a_mistake(manifest, load):
    manifest("path,label\na.png,1\nb.png,sick\n")
    with pytest.raises(DataError, match=r"^data.csv:2: the policy has no label '1'; it has normal, sick$"):
        load("data.csv")


def test_splits(manifest, load):
    manifest("path,label,split\na.png,sick,train\nb.png,sick,test\nsub/c.png,normal,test\nmissing.png,odd,train\n")
    samples = load("data.csv", split="test")
    assert samples.names == ("b.png", "sub/c.png")
    assert samples.info.split == "test"
    assert samples.info.available == 2
    assert samples.info.notes == ()


def test_splits_of_other_names(manifest, load):
    manifest("path,label,split\na.png,sick,Training\nb.png,sick,validation\nsub/c.png,normal,validation\n")
    samples = load("data.csv", split="val")
    assert samples.names == ("b.png", "sub/c.png")
    assert samples.info.split == "val"
    assert samples.info.notes == ("split val are the rows of data.csv whose split is 'validation'",)
    assert load("data.csv", split="train").names == ("a.png",)


def test_a_split_in_letters_of_either_case_is_one(manifest, load):
    manifest("path,label,split\na.png,sick,test\nb.png,sick,Test\nsub/c.png,normal,TEST\nmissing.png,odd,Train\n")
    samples = load("data.csv", split="test")
    assert samples.names == ("a.png", "b.png", "sub/c.png")
    assert samples.info.notes == ("split test are the rows of data.csv whose split is 'TEST' or 'Test' or 'test'",)


@pytest.mark.parametrize(("split", "one", "other"), [("test", "test", "testing"), ("val", "dev", "validation")])
def test_two_words_for_a_split_are_never_one_of_them_alone(manifest, load, split, one, other):
    manifest(f"path,label,split\na.png,sick,{one}\nb.png,sick,{other}\n")
    with pytest.raises(DataError) as caught:
        load("data.csv", split=split)
    assert str(caught.value) == (
        f"data.csv: in its column split {one}, {other} may all mean the split {split}: call the rows that you mean "
        f"{split}, and the others something else"
    )


def test_rows_of_no_split_are_counted(manifest, load):
    manifest("path,label,split\na.png,sick,test\nb.png,sick,\nsub/c.png,normal,holdout\nd.png,normal,train\n")
    samples = load("data.csv", split="test")
    assert samples.names == ("a.png",)
    assert samples.info.notes[0] == (
        "rows of data.csv whose split is not a split's name are left out: 2, first line 3 (found empty, 'holdout')"
    )


@pytest.mark.parametrize("header", ["Split", "SPLIT", "subset", "fold"])
def test_a_split_column_that_is_called_otherwise(manifest, load, header):
    manifest(f"path,label,{header}\na.png,sick,train\nb.png,sick,test\nsub/c.png,normal,\n")
    with pytest.raises(DataError) as caught:
        load("data.csv", split="test")
    assert str(caught.value) == (
        f"data.csv: data.split is test, but no column is called split; {header!r} holds test, train: call it split, or "
        "leave data.split out if all rows are meant"
    )
    assert load("data.csv").info.notes == (
        f"all rows of data.csv are used, whatever its column {header!r} says: data.split names none",
    )


def test_columns_that_only_look_like_a_split(manifest, load):
    manifest("path,label,part,dev,fold\na.png,sick,test,train,1\nb.png,sick,test,x,2\nsub/c.png,normal,test,y,3\n")
    assert load("data.csv", split="test").info.notes == ("data.csv has no column split: all its rows are one split",)
    assert load("data.csv").info.notes == ()
    with pytest.raises(DataError, match=r"^data.csv: data.split is val, but .*; 'part' holds test: call it split"):
        load("data.csv", split="val")


@pytest.mark.parametrize(
    ("header", "cells"),
    [("comment", "test,,"), ("Split", "left,right,"), ("SPLIT", ",,"), ("SPLIT", "val,val,val")],
)
def test_a_column_that_says_of_hardly_any_row_which_split_it_is_in_is_none(manifest, load, header, cells):
    rows = zip(["a.png", "b.png", "sub/c.png"], cells.split(","), strict=True)
    manifest(f"path,label,{header}\n" + "".join(f"{path},sick,{cell}\n" for path, cell in rows))
    samples = load("data.csv", split="val")
    assert len(samples) == 3
    assert "data.csv has no column split: all its rows are one split" in samples.info.notes


def test_a_split_column_that_is_not_asked_for_is_noted(manifest, load):
    manifest("path,label,split\na.png,sick,train\nb.png,normal,test\n")
    samples = load("data.csv")
    assert len(samples) == 2
    assert samples.info.notes == (
        "all rows of data.csv are used, whatever its column split says: data.split names none",
    )


def test_a_split_without_a_column_is_noted(manifest, load):
    manifest("path,label\na.png,sick\nb.png,normal\n")
    samples = load("data.csv", split="test")
    assert samples.info.split is None
    assert samples.info.notes == ("data.csv has no column split: all its rows are one split",)


def test_a_split_that_no_row_has(manifest, load):
    manifest("path,label,split\na.png,sick,train\nb.png,normal,val\n")
    with pytest.raises(DataError, match=r"data.csv: no row's split is 'test'; the column holds train, val"):
        load("data.csv", split="test")


def test_another_root(manifest, load, save_picture):
    save_picture("elsewhere/x.png", GREY)
    manifest("path,label\nx.png,sick\n")
    assert load("data.csv", root="elsewhere").names == ("x.png",)


def test_a_root_that_is_not_there(manifest, load):
    manifest("path,label\na.png,sick\n")
    with pytest.raises(DataError, match=r"data.csv: data.root is elsewhere, but there is no such folder"):
        load("data.csv", root="elsewhere")


def test_every_mistake_has_its_line(manifest, load, tmp_path):
    (tmp_path / "sub").mkdir(exist_ok=True)
    (tmp_path / "sub/c.txt").write_text("no image")
    manifest(
        "path,label\na.png,sik\n\nb.png\n/etc/passwd.png,sick\n../x.png,sick\nC:\\x.png,sick\ngone.png,sick\n,sick\n"
        "sub/c.txt,sick\nb.png,sick\nsub/../b.png,sick\na\0.png,sick\n"
    )
    with pytest.raises(DataError) as caught:
        load("data.csv")
    lines = str(caught.value).splitlines()
    assert lines[0] == "data.csv:2: the policy has no label 'sik'; did you mean 'sick'?; it has normal, sick"
    assert lines[1] == "data.csv:4: 1 cells, but the header has 2"
    for line, place, what in [
        (2, 5, "'/etc/passwd.png': it leaves "),
        (3, 6, "'../x.png': it leaves "),
        (4, 7, "'C:\\\\x.png': it leaves "),
        (5, 8, "'gone.png': there is no such file in "),
        (6, 9, "'': the path is empty"),
        (
            7,
            10,
            "'sub/c.txt': only .png, .jpg, .jpeg, .jpe, .jfif, .tif, .tiff, .dcm, .dicom, .ima are read, and DICOM of "
            "any name",
        ),
        (8, 12, "'sub/../b.png': the same file as in line 11"),
        (9, 13, "'a\\x00.png': "),
    ]:
        assert lines[line].startswith(f"data.csv:{place}: {what}"), lines[line]
    for line, advice in [
        (2, "; write it relative to data.root, with /"),
        (3, "; data.root names another folder"),
        (4, "; write it relative to data.root, with /"),
    ]:
        assert lines[line].endswith(advice), lines[line]


@pytest.mark.parametrize("first", ["sep=,\r\n", "SEP=;\n"])
def test_excels_line_about_what_separates_is_no_header(manifest, load, first):
    manifest(f"{first}path,label\na.png,sick\nb.png,sik\n")
    with pytest.raises(DataError, match=r"^data\.csv:4: the policy has no label 'sik'"):
        load("data.csv")
    manifest(f"{first}path,label\na.png,sick\nb.png,normal\n")
    assert load("data.csv").names == ("a.png", "b.png")


def test_paths_that_are_written_otherwise_are_told_how(manifest, load):
    manifest("path,label\nsub\\c.png,sick\nsub/C.PNG,sick\nsub/d.png,sick\nsub,sick\nsub/..,sick\n")
    with pytest.raises(DataError) as caught:
        load("data.csv")
    slash, case, neither, *folders = str(caught.value).splitlines()
    assert slash.startswith(r"data.csv:2: 'sub\\c.png': there is no such file in ")
    assert slash.endswith("; paths are written with /")
    assert case.endswith("; did you mean 'sub/c.png'?")
    assert "; " not in neither
    assert all(folder.endswith("; it is a folder") for folder in folders)
    assert len(folders) == 2


def test_accents_that_are_stored_apart_are_the_same_label(manifest, load, save_picture):
    apart, whole = "O\u0308dem", "\u00d6dem"
    manifest(f"path,label\na.png,{apart}\nb.png,{whole}\n")
    assert load("data.csv", labels=["normal", whole]).labels.tolist() == [1, 1]
    assert load("data.csv", labels=["normal", apart]).labels.tolist() == [1, 1]
    assert load("data.csv", labels=["normal", whole], task="multilabel").labels.tolist() == [2, 2]
    save_picture(f"scans/{apart}/a.png", GREY)
    assert load("scans", labels=["normal", whole]).labels.tolist() == [1]


def test_ten_mistakes_are_spelt_out_and_the_rest_counted(manifest, load):
    manifest("path,label\n" + "".join(f"{index}.png,sick\n" for index in range(14)))
    with pytest.raises(DataError) as caught:
        load("data.csv")
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "data.csv: 4 more of 14 mistakes"


def test_ten_mistakes_are_all(manifest, load):
    manifest("path,label\n" + "".join(f"{index}.png,sick\n" for index in range(10)))
    with pytest.raises(DataError) as caught:
        load("data.csv")
    assert [line.partition(":")[2][:2].rstrip(":") for line in str(caught.value).splitlines()] == [
        str(number) for number in range(2, 12)
    ]


def test_a_manifest_that_memory_would_not_hold(manifest, load, monkeypatch):
    text = "path,label\na.png,sick\n"
    manifest(text)
    monkeypatch.setattr("robustcheck.data.reading.memory_limit", lambda: 8 * len(text) - 1)
    with pytest.raises(DataError, match=r"^data.csv: it would take .* GiB of memory"):
        load("data.csv")


def test_a_manifest_whose_rows_memory_would_not_hold(manifest, load, monkeypatch):
    """Each is an object, however short it is."""
    text = "path,label\n" + "\n" * 100
    manifest(text)
    monkeypatch.setattr("robustcheck.data.reading.memory_limit", lambda: 8 * len(text) + 50_000)
    with pytest.raises(DataError, match=r"^data.csv: it would take .* GiB of memory"):
        load("data.csv")


def test_a_header_of_very_many_columns(manifest, load):
    manifest("path,label" + "," * 10_000 + "\na.png,sick" + "," * 10_000 + "\n")
    with pytest.raises(DataError, match=r"^data\.csv:1: the header has 10,002 columns; at most 10,000 are read"):
        load("data.csv")


@pytest.mark.parametrize("row", ["x\n", "a.png,sik\n", "{}.png,sick\n"])
def test_a_manifest_of_wrong_rows_is_not_read_on(manifest, load, monkeypatch, row):
    monkeypatch.setattr("robustcheck.data.mistakes._MOST", 20)
    manifest("path,label\n" + "".join(row.format(index) for index in range(40)))
    asked = []
    monkeypatch.setattr("robustcheck.data.manifest._plain_file", lambda typed, _: asked.append(typed))
    with pytest.raises(DataError) as caught:
        load("data.csv")
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "data.csv: more than 20 mistakes; the rest is not read"
    assert len(asked) <= 21


def test_mistakes_of_later_lines_are_counted_and_not_kept():
    mistakes = Mistakes("data.csv")
    for line in reversed(range(100)):
        mistakes.add(line, f"mistake {line}")
    assert mistakes._first == [(line, f"mistake {line}") for line in range(10)]


def test_an_image_is_called_by_its_path_at_its_shortest(manifest, load):
    manifest("path,label\n./sub//c.png,sick\nsub/../a.png,sick\n")
    assert load("data.csv").names == ("sub/c.png", "a.png")


@pytest.mark.parametrize(
    ("link", "to", "row", "mistake"),
    [
        ("inside/folder", "secret", "folder/x.png", "it leaves .*: a data file cannot escape its folder; data.root "),
        ("inside/folder", "inside/own", "folder/x.png", None),
        ("inside/folder", "inside/own", "folder/../own/x.png", None),
        ("inside/own/link.png", "inside/own/x.png", "own/link.png", None),
        ("inside/own/link.png", "secret/x.png", "own/link.png", "it leaves "),
        ("inside/own/link.png", "secret", "own/link.png", "it leaves "),
        ("inside/own/link.png", "inside/own", "own/link.png", "there is no such file in "),
        ("inside/own/link.png", "inside/gone.png", "own/link.png", "there is no such file in "),
    ],
)
def test_links_are_followed_wherever_they_stand(manifest, load, tmp_path, save_picture, link, to, row, mistake):
    for index, name in enumerate(("secret/x.png", "inside/own/x.png", "inside/own/y.png")):
        save_picture(name, GREY + index)
    (tmp_path / link).symlink_to(tmp_path / to)
    manifest(f"path,label\nown/y.png,normal\n{row},sick\n")
    if mistake is None:
        assert (load("data.csv", root="inside").image(1) == GREY + 1).all()
        return
    with pytest.raises(DataError, match=f"^data.csv:3: {row!r}: {mistake}"):
        load("data.csv", root="inside")


def test_a_file_that_two_paths_lead_to_is_there_twice(manifest, load, tmp_path):
    (tmp_path / "folder").symlink_to(tmp_path / "sub")
    (tmp_path / "link.png").symlink_to(tmp_path / "sub/c.png")
    for row in ("folder/c.png", "link.png", "./sub//c.png"):
        manifest(f"path,label\nsub/c.png,normal\n{row},sick\n")
        with pytest.raises(DataError, match=f"^data.csv:3: {row!r}: the same file as in line 2"):
            load("data.csv")


def test_a_folder_is_followed_once_however_many_files_are_in_it(manifest, load, save_picture, monkeypatch):
    followed, resolve = [], Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path, **options: followed.append(path) or resolve(path, **options))
    for index in range(20):
        save_picture(f"many/{index}.png", GREY + index)
    manifest("path,label\n" + "".join(f"many/{index}.png,sick\n" for index in range(20)))
    assert len(load("data.csv")) == 20
    assert len(followed) < 10


def test_absolute_paths_are_refused_wherever_they_lead(manifest, load, tmp_path):
    manifest(f"path,label\n{tmp_path / 'a.png'},sick\n")
    with pytest.raises(DataError, match=r"data.csv:2: .*a.png': it leaves "):
        load("data.csv")


def test_links_in_a_circle(manifest, load, tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "y.png")
    (tmp_path / "y.png").symlink_to(tmp_path / "x.png")
    manifest("path,label\nx.png,sick\n")
    with pytest.raises(DataError, match=r"data.csv:2: 'x.png': "):
        load("data.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.csv: it is empty; a header with the columns path and label is needed"),
        ("\n\n", "data.csv: it is empty"),
        ("path,label\n", "data.csv: it holds no samples"),
        (
            "paths,label\na.png,sick\n",
            "data.csv:1: no column 'path'; did you mean 'paths'.; the header is paths, label",
        ),
        ("a.png,sick\n", "data.csv:1: no column 'path'"),
        ("path,label,path\n", "data.csv:1: the column 'path' appears twice"),
        ("path,label\na.png,\u00b2\n", "data.csv:2: the policy has no label '\u00b2'"),
        ("path,label\na.png,7\n", "data.csv:2: label 7 is out of range: 0 to 1 are allowed"),
        ("path,label\na.png," + "9" * 5000, "data.csv:2: label 9+ is out of range"),
        (b"path,label\na.png,\xff\n", "data.csv:2: it is not UTF-8; save it as CSV UTF-8"),
        ("path,label\na.png,sick\n".encode("utf-16"), "data.csv:1: it is not UTF-8"),
        ('path,label\na.png,"sick\n', "data.csv:2: it cannot be read as CSV from here on: unexpected end of data"),
        (
            "path,label\na.png," + "x" * 200_000,
            "data.csv:2: it cannot be read as CSV from here on: field larger than field limit",
        ),
    ],
)
def test_mistakes(manifest, load, text, message):
    manifest(text)
    with pytest.raises(DataError, match=message):
        load("data.csv")


def test_a_missing_manifest(manifest, load):
    manifest("path,label\na.png,sick\n")
    with pytest.raises(DataError, match=r"date.csv: there is no file .*; did you mean 'data.csv'"):
        load("date.csv")
