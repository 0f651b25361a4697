"""The size of an image is known before it is decoded, and is bounded."""

import os
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_maml import tasks
from keras_maml.tasks import image_headers


def stored(tmp_path, name, size=(7, 5), **arguments):
    path = tmp_path / name
    Image.new("RGB", size, (10, 200, 30)).save(path, **arguments)
    return path.read_bytes()


def png_of(width, height):
    """A PNG of any size, whose pixels are missing."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return (struct.pack(">I", len(content)) + kind + content) + struct.pack(
            ">I", check
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.jpg", {"comment": b"\xff\xc0 is no frame"}),
        ("a.gif", {}),
    ],
)
def test_pixels_are_those_of_the_decoded_image(tmp_path, name, arguments):
    content = stored(tmp_path, name, **arguments)
    decoded = tf.io.decode_image(content, expand_animations=False)
    assert image_headers.pixels(content) == 35
    assert decoded.shape[0] * decoded.shape[1] == 35


def test_all_frames_of_a_gif_count(tmp_path):
    frames = [Image.new("RGB", (7, 5), (i, 0, 99)) for i in (0, 90, 180)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert image_headers.pixels(path.read_bytes()) == 105


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.jpg", "a.gif"])
def test_every_cut_and_changed_header_has_an_answer(tmp_path, name):
    content = stored(tmp_path, name)
    rng = np.random.default_rng(0)
    for length in range(min(len(content), 400)):
        assert image_headers.pixels(content[:length]) >= -1
    for _ in range(300):
        changed = bytearray(content)
        changed[rng.integers(8, len(changed))] = rng.integers(256)
        assert image_headers.pixels(bytes(changed)) >= -1


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "1.png"
    path.write_bytes(png_of(100_000, 100_000))
    assert path.stat().st_size < 100
    start = time.monotonic()
    with pytest.raises(ValueError) as caught:
        tasks.from_folder(tmp_path)
    assert time.monotonic() - start < 5
    for part in ("`max_pixels`", "10000000000", f"Received: {path}"):
        assert part in str(caught.value)


def test_max_pixels_is_an_argument(tmp_path):
    (tmp_path / "a").mkdir()
    stored(tmp_path / "a", "1.png")
    assert tasks.from_folder(tmp_path, max_pixels=35).counts.tolist() == [1]
    with pytest.raises(
        ValueError, match="(?s)than `max_pixels`.*Received: .*1.p"
    ):
        tasks.from_folder(tmp_path, max_pixels=34)
    with pytest.raises(ValueError, match="`max_pixels` must be an integer"):
        tasks.from_folder(tmp_path, max_pixels=0)
    with pytest.raises(ValueError, match="`max_pixels` must be an integer"):
        tasks.from_tfds("omniglot", max_pixels=0)


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "1.png"
    path.write_bytes(png_of(5, 5))
    # A hole takes no room on the disk.
    os.truncate(path, 2**40)
    with pytest.raises(ValueError) as caught:
        tasks.from_folder(tmp_path, max_pixels=1000)
    for part in ("`max_pixels`", str(2**40), f"Received: {path}"):
        assert part in str(caught.value)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"RIFF\0\0\0\0WEBPVP8L")
    with pytest.raises(ValueError, match="no whole BMP, GIF, JPEG or PNG"):
        tasks.from_folder(tmp_path)
