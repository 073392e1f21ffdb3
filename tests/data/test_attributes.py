"""Tables of attributes, and the images that they are about."""

import numpy as np
import pytest
from pictures import encoded, smooth

from fastgan.data import DataError, open_source
from fastgan.data.attributes import of_classes, read_attributes, read_table
from fastgan.data.pack import pack


@pytest.fixture
def folder(tmp_path):
    """Images of two classes that share a name."""
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encoded(smooth(20, 20, 1, number), "PNG"))
    return tmp_path / "set"


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_columns_of_a_csv(table):
    path = table('file, smiling, age, "old, or not", young\n\n./a/1.jpg,1,0.5,true,-1\na/2.jpg,-1,-1,no,1\n')
    names, rows = read_table(path)
    assert names == ("smiling", "age", "old, or not", "young")
    assert {name: row.tolist() for name, row in rows.items()} == {"a/1.jpg": [1, 0.5, 1, 0], "a/2.jpg": [0, -1, 0, 1]}


def test_the_file_of_celeba(table):
    names, rows = read_table(table("2\n5_o_Clock_Shadow Bald \n000001.jpg -1  1\n000002.jpg  1 -1\n", "list_attr_celeba.txt"))
    assert names == ("5_o_Clock_Shadow", "Bald")
    assert rows["000001.jpg"].tolist() == [0, 1]
    assert rows["000002.jpg"].tolist() == [1, 0]


def test_images_are_found_by_path_or_by_a_name_of_their_own(folder, table):
    source = open_source("folder", folder, quiet=True)
    found = read_attributes(table("n,x\n2.png,2\ncat/1.png,1\n3.png,4\ndog/1.png,3\nother.png,9\n"), source)
    assert source.names() == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png"]
    assert found.values[:, 0].tolist() == [1, 2, 3, 4]
    assert found.of(np.array([3, 0])).values[:, 0].tolist() == [4, 1]


def test_a_packed_set_knows_the_names_that_its_images_came_by(folder, table, tmp_path):
    pack(folder, tmp_path / "packed", shard_size=3, workers=1, quiet=True)
    source = open_source("shards", tmp_path / "packed")
    found = read_attributes(table("n,dog\ncat/1.png,0\ncat/2.png,0\ndog/1.png,1\ndog/3.png,1\n"), source)
    assert sorted(source.names()) == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png"]
    assert found.values[:, 0].tolist() == source.labels.tolist()


def test_classes_are_attributes():
    source = open_source("digits")
    found = of_classes(source)
    assert found.names == tuple("0123456789")
    assert (found.values.argmax(1) == source.labels).all()
    assert (found.values.sum(1) == 1).all()
    assert found.column("7") == 7
    with pytest.raises(DataError, match="no attribute 'x'; the known ones are 0, 1"):
        found.column("x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "names no attributes"),
        ("file\n1.png\n", "names no attributes"),
        ("file,a,a\n1.png,1,1\n", "'a' stands there twice"),
        ("file,a,\n1.png,1,1\n", "has no name"),
        ("file,a\n", "no images"),
        ("file,a\n1.png,1,2\n", "line 2: 2 values for 1 attribute"),
        ("file,a\n\n1.png,tall\n", "line 3: a is no number, but 'tall'"),
        ("file,a\n1.png,nan\n", "line 2: a is no number"),
        ("file,a\n1.png,1e100\n2.png,-2e200\n", r"line 3: a is beyond 1e\+100: -2e200"),
        ("file,a\n1.png,1\n1.png,0\n", "line 3: 1.png stands there a second time"),
        ('file,a\n"1.png,1\n', "can't be read as CSV"),
        ("3\n", "names no attributes"),
        ("3\na b\n1.png 1 1\n2.png 1 -1\n", "announces 3 images and has lines of 2: it is not whole"),
        ("9" * 5000 + "\na b\n", "names no attributes"),
        ("file;a;b\n1.png;1;0,5\n", "divided by commas, and the first line has none"),
        ("file\ta\n1.png\t1\n", "divided by commas"),
        ("file,a\ncat/1.png,1\ncat/2.png,0\n", "nothing of 2 of 4 images, dog/1.png first"),
        ("file,a\n1.png,1\n2.png,0\n3.png,1\n", "bare names of 2 of 4 images.*cat/1.png first: give their folders"),
    ],
)
def test_what_is_no_table_of_these_images_is_refused(folder, table, text, line):
    with pytest.raises(DataError, match=line) as refused:
        read_attributes(table(text), open_source("folder", folder, quiet=True))
    assert "\n" not in str(refused.value)


def test_files_and_sources_that_have_no_attributes(folder, table, tmp_path):
    source = open_source("folder", folder, quiet=True)
    with pytest.raises(DataError, match="does not exist"):
        read_attributes(tmp_path / "none.csv", source)
    with pytest.raises(DataError, match="can't be read"):
        read_attributes(tmp_path, source)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_attributes(tmp_path / "bytes.csv", source)
    with pytest.raises(DataError, match="'digits' have no names"):
        read_attributes(table("file,a\n1,1\n"), open_source("digits"))
    with pytest.raises(DataError, match="one class"):
        of_classes(open_source("folder", folder / "cat", quiet=True))
