import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks


def write(path, value, size=(6, 6), kind="png"):
    """Writes an image all of one colour, `value` from 0 to 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), value, "uint8")
    encode = tf.io.encode_jpeg if kind == "jpg" else tf.io.encode_png
    path.write_bytes(encode(image).numpy())


def test_arrays_are_preprocessed_once_each():
    x = np.arange(600, dtype="int32").reshape(300, 2)
    pool = tasks.from_arrays(
        x,
        np.arange(300) % 3,
        preprocess=lambda example: tf.cast(example[:1], tf.float32) / 2,
    )
    np.testing.assert_array_equal(pool.x, x[:, :1] / 2)
    assert pool.counts.tolist() == [100, 100, 100]


def test_folder_of_class_folders(tmp_path):
    for number in range(3):
        write(tmp_path / "crow" / f"{number}.png", 10 + number)
    write(tmp_path / "ant" / "only.PNG", 200)
    pool = tasks.from_folder(tmp_path)
    assert pool.class_names == ["ant", "crow"]
    assert pool.counts.tolist() == [1, 3]
    assert pool.x.dtype == np.uint8
    assert pool.x.shape == (4, 6, 6, 3)
    assert pool.x[:, 0, 0, 0].tolist() == [200, 10, 11, 12]


def test_nested_folders_and_other_files(tmp_path):
    for alphabet in ("Greek", "Latin"):
        for character in ("a", "b"):
            for number in range(2):
                write(tmp_path / alphabet / character / f"{number}.png", 0)
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "Greek" / "a" / ".hidden.png").write_text("nor this")
    copies = tmp_path / "Greek" / "a" / ".checkpoints"
    copies.mkdir()
    (copies / "copy.png").write_text("nor this")
    pool = tasks.from_folder(str(tmp_path))
    assert pool.class_names == ["Greek/a", "Greek/b", "Latin/a", "Latin/b"]
    assert pool.counts.tolist() == [2, 2, 2, 2]


def test_linked_folders_and_images_count_if_asked_for(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    write(root / "crow" / "1.png", 10)
    write(other / "ant" / "1.png", 20)
    write(other / "ant" / "2.png", 30)
    (root / "birds" / "owl").mkdir(parents=True)
    (root / "birds" / "owl" / "1.png").symlink_to(other / "ant" / "2.png")
    (root / "insects").symlink_to(other)
    (root / "again").symlink_to("crow")
    pool = tasks.from_folder(root, follow_links=True)
    assert pool.class_names == ["again", "birds/owl", "crow", "insects/ant"]
    assert pool.x[:, 0, 0, 0].tolist() == [10, 30, 10, 20, 30]


def test_links_that_are_no_images_are_passed_over(tmp_path):
    write(tmp_path / "root" / "crow" / "1.png", 10)
    write(tmp_path / ".hidden" / "1.png", 20)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "root" / "notes.txt").symlink_to("../notes.txt")
    (tmp_path / "root" / ".trash").symlink_to("../.hidden")
    for follow_links in (False, True):
        pool = tasks.from_folder(tmp_path / "root", follow_links=follow_links)
        assert pool.class_names == ["crow"]


def test_the_folder_itself_may_be_a_link(tmp_path):
    write(tmp_path / "root" / "crow" / "1.png", 10)
    (tmp_path / "link").symlink_to("root")
    assert tasks.from_folder(tmp_path / "link").class_names == ["crow"]


def test_folder_named_as_an_image(tmp_path):
    write(tmp_path / "crow.png" / "1.png", 10)
    (tmp_path / "crow.png" / "empty.png").mkdir()
    assert tasks.from_folder(tmp_path).class_names == ["crow.png"]


def test_folder_examples_are_of_their_class(tmp_path):
    for value in range(12):
        write(tmp_path / f"class {value % 4}" / f"{value}.png", value)
    # An episode of all of them.
    source = tasks.from_folder(tmp_path).episodes(4, 1, 2)
    names = source.classes(0)
    x, y = source.episode(0)
    seen = set()
    for image, label in zip(
        [*x["support_x"], *x["query_x"]], [*x["support_y"], *y], strict=True
    ):
        value = round(255 * image[0, 0, 0])
        assert names[label] == f"class {value % 4}"
        seen.add(value)
    assert seen == set(range(12))


@pytest.mark.parametrize(
    ("image_size", "shape"), [(4, (4, 4)), ((3, 5), (3, 5))]
)
def test_images_are_brought_to_one_size(tmp_path, image_size, shape):
    write(tmp_path / "a" / "1.png", 100, size=(8, 12))
    write(tmp_path / "a" / "2.jpg", 100, size=(20, 9), kind="jpg")
    pool = tasks.from_folder(tmp_path, image_size=image_size)
    assert pool.x.shape == (2, *shape, 3)
    assert pool.x.dtype == np.uint8
    assert (pool.x == 100).all()


def test_resize_is_antialiased(tmp_path):
    board = 255 * (np.indices([16, 16]).sum(axis=0) % 2)
    board = np.stack([board] * 3, axis=-1).astype("uint8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(tf.io.encode_png(board).numpy())
    pool = tasks.from_folder(tmp_path, image_size=4)
    assert abs(pool.x.astype("int32")[0, 1:3, 1:3] - 127.5).max() < 10


def test_grayscale(tmp_path):
    write(tmp_path / "a" / "1.png", 77)
    pool = tasks.from_folder(tmp_path, color_mode="grayscale")
    assert pool.x.shape == (1, 6, 6, 1)
    assert (pool.x == 77).all()


def test_folder_preprocess_comes_after_the_resize(tmp_path):
    write(tmp_path / "a" / "1.png", 51, size=(9, 9))
    pool = tasks.from_folder(
        tmp_path,
        image_size=3,
        preprocess=lambda image: tf.cast(image[..., 0], tf.float32) / 255,
    )
    assert pool.x.shape == (1, 3, 3)
    np.testing.assert_allclose(pool.x, 0.2, rtol=1e-6)
