"""Lists of pictures with labels, and groups that stay on one side of a split."""

import pytest
from test_data_folders import items, make

from alexnet_tf.errors import UserError
from data import sources
from data.counting import Duplicates, describe_imbalance
from data.held_out import group_by_name
from data.source import Reading


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


def open_any(path, **reading):
    return sources.open_source("auto", str(path), Reading(**reading))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "id,breed\n0,cat\n1,dog\n2,cat\n"),
        ("labels.csv", "Class;File;x\ncat;p/0.png;1\ndog;p/1.png;2\ncat;p/2.png;3\n"),
        ("labels.tsv", "image\tlabel\n0.png\tcat\n1.png\tdog\n2.png\tcat\n"),
        ("labels.txt", "p/0.png cat\np/1.png dog\np/2.png cat\n"),
        ("labels.csv", "file,label\np/0.png,cat,x\np/1.png,dog,y\np/2.png,cat,z\n"),
        (
            "metadata.jsonl",
            '{"file_name": "p/0.png", "label": "cat"}\n'
            '{"file_name": "p/1.png", "label": "dog"}\n'
            '{"file_name": "p/2.png", "label": "cat"}\n',
        ),
    ],
)
def test_lists(tmp_path, name, text):
    root = write(make(tmp_path / "in", "p/0.png", "p/1.png", "p/2.png"), name, text)
    for path in (root, root / name):
        source = open_any(path)
        assert source.class_names == ["cat", "dog"]
        labels = [label for label, _ in items(source).values()]
        assert labels == ["cat", "dog", "cat"]


def test_rows_that_cannot_be_used_are_named(tmp_path):
    rows = "id,label\n0,a\n1,b\n2,a\n0,a\n9,b\n3,\n"
    root = write(
        make(tmp_path, *(f"train/{i}.png" for i in range(4))), "train.csv", rows
    )
    source = open_any(root)
    assert source.num_items == 3
    assert source.notes == [
        "left out: rows for a picture that has one already: 1, the first 0",
        "left out: rows whose picture is not there, or is twice: 1, the first 9",
        "left out: rows without a label: 1, the first 3",
    ]


def test_columns_that_are_not_known(tmp_path):
    rows = "lesion,image_id,dx\n" + "".join(
        f"L{i // 2},{i},{'ab'[i % 2]}\n" for i in range(8)
    )
    root = make(tmp_path, *(f"part_{i % 2}/{i}.png" for i in range(8)))
    write(root, "ham.csv", rows)
    with pytest.raises(
        UserError, match=r"parts of one set.*--label_column=NAME, one of"
    ):
        open_any(root)
    source = open_any(root / "ham.csv", label_column="dx", group_by="lesion")
    by_column = [item.group for item in group_by_name(source, "lesion").all_items()]
    assert by_column == [f"L{i // 2}" for i in range(8)]
    source = open_any(root / "ham.csv", label_column="dx")
    by_name = [item.group for item in group_by_name(source, r"part_(\d)").all_items()]
    assert by_name == ["0", "1"] * 4
    with pytest.raises(UserError, match="is no column with a value for part_0/0"):
        list(group_by_name(source, "patient").all_items())


def test_tiny_imagenet(tmp_path):
    classes = "n01443537", "n01629819"
    for name in classes:
        make(tmp_path, *(f"train/{name}/images/{name}_{i}.JPEG" for i in range(3)))
        write(
            tmp_path, f"train/{name}/{name}_boxes.txt", f"{name}_0.JPEG\t0\t1\t2\t3\n"
        )
    make(
        tmp_path,
        *(
            f"{split}/images/{split}_{i}.JPEG"
            for split in ("val", "test")
            for i in range(4)
        ),
    )
    rows = (f"val_{i}.JPEG\t{classes[i % 2]}\t0\t32\t44\t62\n" for i in range(4))
    write(tmp_path, "val/val_annotations.txt", "".join(rows))
    source = open_any(tmp_path)
    assert source.class_names == list(classes)
    found = items(source)
    assert found["val/images/val_1.JPEG"] == (classes[1], "validation")
    assert (
        sorted(split for _, split in found.values())
        == ["train"] * 6 + ["validation"] * 4
    )
    assert any("pictures of test without a class: 4" in note for note in source.notes)


def test_a_list_of_a_split_beside_its_folder(tmp_path):
    make(tmp_path, *(f"Train/{c}/{i}.png" for c in "ab" for i in range(3)))
    make(tmp_path, *(f"Test/{i}.png" for i in range(4)))
    rows = (f"{'ab'[i % 2]},Test/{i}.png\n" for i in range(4))
    write(tmp_path, "Test.csv", "ClassId,Path\n" + "".join(rows))
    found = items(open_any(tmp_path))
    assert found["Test/3.png"] == ("b", "test")
    assert len(found) == 10


def test_the_folder_of_a_lists_name_comes_first(tmp_path):
    make(
        tmp_path, *(f"{split}/{i}.png" for split in ("train", "test") for i in range(4))
    )
    write(tmp_path, "train.csv", "id,label\n0,a\n1,b\n2,a\n3,b\n")
    assert set(items(open_any(tmp_path))) == {f"{i}.png" for i in range(4)}


def test_a_list_of_a_split_finds_its_folder_of_images(tmp_path):
    """Kaggle's `train_images/` beside `test_images/`, with equal names."""
    folders = "train_images", "test_images"
    make(tmp_path, *(f"{folder}/{i}.png" for folder in folders for i in range(4)))
    write(tmp_path, "train.csv", "image_id,label\n0,a\n1,b\n2,a\n3,b\n")
    source = open_any(tmp_path)
    assert {item.content.split("/")[-2] for item in source.all_items()} == {folders[0]}
    assert source.num_items == 4


def test_a_column_that_is_given_is_one_of_a_list(tmp_path):
    """HAM10000: the pictures are in two parts, and the class is in the column dx."""
    make(tmp_path, "x_part_1/0.png", "x_part_1/1.png", "x_part_2/2.png")
    write(tmp_path, "metadata_of_x.csv", "image_id,dx,age\n0,mel,1\n1,nv,2\n2,mel,3\n")
    with pytest.raises(UserError, match=r"parts of one set.* --label_column=NAME"):
        open_any(tmp_path)
    assert open_any(tmp_path, label_column="dx").class_names == ["mel", "nv"]


def test_a_split_of_another_name_is_not_left_out(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(4)))
    for other, rest in (("PublicTest", "Training"), ("extra", "val")):
        rows = (f"{i}.png,{'ab'[i % 2]},train\n" for i in range(2))
        more = f"2.png,a,{other}\n3.png,b,{rest}\n"
        write(tmp_path, "x.csv", "image,label,set\n" + "".join(rows) + more)
        if rest == "val":  # then nothing takes its place
            notes = open_any(tmp_path / "x.csv").notes
            assert notes == [
                "left out: rows of no split that is known: 1, the first 2.png: extra"
            ]
            continue
        with pytest.raises(UserError, match="has rows of PublicTest, which is no spl"):
            open_any(tmp_path / "x.csv")


def test_blanks_in_paths(tmp_path):
    make(tmp_path, *(f"{who} pets/{i}.png" for who in ("my", "her") for i in range(2)))
    rows = (
        f"{who} pets/{i}.png {'ab'[i]}\n" for who in ("my", "her") for i in range(2)
    )
    write(tmp_path, "list.txt", "".join(rows))
    assert open_any(tmp_path / "list.txt").class_names == ["a", "b"]


def test_numbers_of_json_and_columns_that_are_not_used(tmp_path):
    make(tmp_path, "0.png", "1.png", "2.png")
    rows = (
        f'{{"image": "{i}.png", "y": {i % 2}.0, "is_valid": 1}}\n' for i in range(3)
    )
    write(tmp_path, "list.jsonl", "".join(rows))
    source = open_any(tmp_path / "list.jsonl")
    assert source.class_names == ["0", "1"]
    assert source.notes == ["left out: columns: 1, the first is_valid"]


def test_paths_from_here_and_from_the_root_in_one_list(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "p/0.png", "p/1.png", "q/2.png"))
    rows = f"image,label\np/0.png,a\np/1.png,b\n{tmp_path}/q/2.png,a\n"
    write(tmp_path, "labels.csv", rows)
    assert open_any("labels.csv").num_items == 3


def test_labels_that_no_class_can_be_called(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(4)))
    write(tmp_path, "x.csv", f"id,label\n0,{'1' * 5000}\n1,b\n2,b\n3,b\n")
    with pytest.raises(UserError, match="has more than 255 characters") as error:
        open_any(tmp_path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            (
                "train/cat.0.png",
                "train/cat.1.png",
                "train/dog.0.png",
                "train/dog.1.png",
                "test1/1.png",
            ),
            "should have a folder.*for the classes cat, dog type",
        ),
        (("images/1.png", "masks/1.png"), "look like pictures and what belongs"),
        (("a/x/1.png", "a/y/1.png", "b/z/1.png"), "two folders down.*classes x, y, z"),
        (("x_part_1/1.png", "x_part_2/2.png"), "parts of one set"),
        (
            ("tr/a/1.png", "tr/b/1.png", "te/a/1.png"),
            "two folders .* splits, which are",
        ),
        (("train/a/1.png", "train/b/1.png", "vall/a/1.png", "vall/b/1.png"), "vall in"),
        (
            ("trainval/a/1.png", "test/a/1.png", "test/b/1.png"),
            "trainval in .*left out",
        ),
        (("a/1.png", "b/1.png", "test/a/1.png", "test/b/1.png"), "a, b in .* left out"),
        (
            ("a/1.png", "b/1.png", "all/a/1.png", "all/b/1.png"),
            "all in .* has folders of the classes a, b in it; for the classes a, b ty",
        ),
        (
            ("a/x.png", "a/x_mask.png", "a/y.png", "a/y_mask_1.png", "b/z.png"),
            r"masks beside .*, such as x_mask, which --label_from='.*\(\?!\.\*_mask\)'",
        ),
        (
            ("HR/5.png", "HR/99.png", "LR/5.png", "LR/99.png"),
            "two versions of the same",
        ),
    ],
)
def test_folders_that_may_be_no_classes(tmp_path, paths, message):
    with pytest.raises(UserError, match=message) as error:
        open_any(make(tmp_path / "in", *paths))
    assert "\n" not in str(error.value)


def test_the_same_picture_in_two_classes_is_said():
    duplicates = Duplicates()
    for label in (0, 1):
        duplicates.add(b"x", "train", label, f"{label}.png")
    assert duplicates.describe().endswith(", 1 in several classes")


def test_uneven_classes_are_said():
    line = describe_imbalance(["a", "b", "none"], [110, 10, 0])
    assert line.startswith("the classes of train are uneven, a 110 and b 10: ")
    assert describe_imbalance(["a", "b"], [100, 10]) == ""
    assert describe_imbalance(["a", "b"], [0, 0]) == ""
