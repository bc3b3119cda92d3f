"""Parts that all layouts share: options of a selection, lists of any content, mirrored edges."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.core.errors import DataError
from bench.data.catalog import resolve
from bench.data.files.imagefiles import _mirrored
from bench.data.files.mount import Span, mounted
from bench.data.files.tree import Archive, Tree, open_tree
from bench.data.formats.contract import Counts, Entry
from bench.data.formats.registry import FORMATS
from bench.specs.data import DataSpec


def tree_of(folder, files):
    spans = {}
    for number, (path, content) in enumerate(sorted(files.items())):
        (folder / str(number)).write_bytes(content)
        spans[path] = Span(str(folder / str(number)))
    return Tree(folder, spans, "expected something; get it: somewhere", "")


# --- options of a selection ---------------------------------------------------------------------


def test_options_leave_ids_as_they_were_where_there_are_none():
    plain = DataSpec(dataset="digits")
    assert "options" not in plain.identity()
    chosen = DataSpec(dataset="caltech-256", options={"clutter": True})
    assert chosen.identity()["options"] == [["clutter", True]]


def test_options_are_pairs_in_order_and_survive_json():
    data = DataSpec(
        dataset="oulu-casia",
        options={"spectrum": "NI", "lights": ["Dark", "Weak"], "partial": True},
    )
    assert data.options == (
        ("lights", ("Dark", "Weak")),
        ("partial", True),
        ("spectrum", "NI"),
    )
    assert DataSpec.model_validate_json(data.model_dump_json()) == data
    assert DataSpec.model_validate(json.loads(data.model_dump_json())) == data
    assert hash(data) == hash(data.model_copy())
    for wrong in (["partial"], "partial", {"partial": None}, {"partial": 0.5}):
        with pytest.raises(ValidationError):
            DataSpec(dataset="oulu-casia", options=wrong)


@pytest.mark.parametrize("name", ["digits", "folder", "tiny-imagenet"])
def test_data_sets_without_options_refuse_them(name, tmp_path):
    data = DataSpec(dataset=name, options={"partial": True})
    with pytest.raises(DataError, match="has no option"):
        resolve(data, 0, data_root=None, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sun-397", {"partition": 11}, "partition of data set 'sun-397': 11"),
        ("sun-397", {"partition": True}, "True is not allowed"),
        ("fgvc-aircraft", {"level": "varient"}, r"'varient'(.|\n)*variant"),
        ("oulu-casia", {"lights": ("Strong", "Bright")}, r"'Bright'(.|\n)*Strong"),
        ("oulu-casia", {"lights": True}, "a list of texts|Dark"),
        ("moorea-corals", {"patch": "61"}, "a whole number"),
        ("moorea-corals", {"patch": -1}, r"-1 is not allowed(.|\n)*a whole number above 0"),
        ("sun-397", {"max_megapixels": 0}, r"0 is not allowed(.|\n)*a whole number above 0"),
    ],
)
def test_values_are_of_the_option_s_type_and_among_its_choices(name, options, says):
    with pytest.raises(DataError, match=says):
        FORMATS[name].chosen(options.items())


def test_one_text_is_a_list_of_one():
    assert FORMATS["oulu-casia"].chosen([("lights", "Dark")])["lights"] == ("Dark",)


# --- counts, columns ----------------------------------------------------------------------------


def test_differences_of_counts_in_words():
    entries = [Entry("a", "x"), Entry("b", "y", "test"), Entry("c", "y", "test")]
    assert Counts(2, {"train": 1, "test": 2}).differences(entries) == []
    assert Counts().differences(entries) == []
    assert Counts(3, {"train": 1, "val": 1000}).differences(entries) == [
        "2 classes (expected 3)",
        "0 val images (expected 1,000)",
    ]


def test_several_boxes_have_numbered_columns():
    entry = Entry("a", "x", boxes=((0, 0, 2.5, 3), (1, 1, 4, 9)), facts=(("light", "Dark"),))
    assert entry.columns() == {"box": "0 0 2.5 3", "box_2": "1 1 3 8", "group_light": "Dark"}


# --- archives -----------------------------------------------------------------------------------


def test_an_archive_is_left_alone_where_it_is_unpacked(tmp_path):
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images" / "a.jpg").write_bytes(b"unpacked")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("Images/a.jpg", b"packed")
        archive.writestr("Images/b.jpg", b"packed")
        archive.writestr("__MACOSX/Images/._a.jpg", b"junk")

    def read(gives):
        known = (Archive("all.zip", gives=gives),)
        tree = open_tree(
            tmp_path, tmp_path / "cache", folders=["Images"], archives=known, inner=(), hint=""
        )
        return {path: tree.read(path) for path in tree.spans}

    assert read("Images/") == {"Images/a.jpg": b"unpacked"}
    assert read("Other/") == {"Images/a.jpg": b"unpacked", "Images/b.jpg": b"packed"}


def test_zip_links_and_secrets_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("a.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"refused: member 'a\.jpg' is a link"):
        mounted(path, tmp_path)


def test_a_packed_file_that_is_gone_is_packed_again(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"content")
    (span,) = mounted(tmp_path / "a.zip", tmp_path / "cache").values()
    for pack in (tmp_path / "cache").rglob("*.pack"):
        pack.unlink()
    assert mounted(tmp_path / "a.zip", tmp_path / "cache")["a.jpg"].read() == b"content"
    assert span.read() == b"content"


# --- any content --------------------------------------------------------------------------------

LISTS = {
    "cub-200-2011": ["images.txt", "classes.txt", "image_class_labels.txt",
                     "train_test_split.txt", "bounding_boxes.txt"],
    "mit-indoor-67": ["TrainImages.txt", "TestImages.txt"],
    "places-205": ["train_places205.csv", "val_places205.csv"],
    "sun-397": ["ClassName.txt"],
    "stanford-40": ["ImageSplits/actions.txt", "ImageSplits/a_train.txt", "ImageSplits/a_test.txt"],
    "fgvc-aircraft": ["data/variants.txt", "data/images_variant_train.txt",
                      "data/images_variant_val.txt", "data/images_variant_test.txt",
                      "data/images_box.txt"],
    "stanford-dogs": ["train_list.mat", "test_list.mat"],
    "flowers-102": ["imagelabels.mat", "setid.mat"],
    "moorea-corals": ["2008/a.jpg", "2008/a.jpg.txt"],
    "vggface2": ["train_list.txt", "bb_landmark/loose_bb_train.csv"],
    "huggingface": ["train/metadata.jsonl", "train/a.jpg"],
    "webdataset": ["s/a.jpg", "s/a.json", "classes.txt"],
}  # fmt: skip
TEXT = st.text(alphabet='0123456789 ;,./\n#a-\\{}[]":', max_size=60).map(str.encode)


@pytest.mark.parametrize("name", sorted(LISTS))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_lists_of_any_content_give_images_or_an_error_for_the_user(name, data, tmp_path):
    content = st.one_of(st.binary(max_size=40), TEXT)
    tree = tree_of(tmp_path, {file: data.draw(content) for file in LISTS[name]})
    form = FORMATS[name]
    options = form.chosen((("partial", True),))
    try:
        entries, _ = form.checked(tree, form.read(tree, options), options)
    except DataError:
        return
    assert all(entry.label and entry.path in tree.spans for entry in entries)


@given(
    size=st.integers(1, 9),
    before=st.integers(0, 30),
    after=st.integers(0, 30),
)
def test_mirrored_places_are_numpy_s(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    assert (_mirrored(np.arange(-before, size + after), size) == expected).all()
