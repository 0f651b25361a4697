"""The images of a folder of class folders."""

import os
import pathlib
from collections.abc import Iterator

# What `tf.io.decode_image` reads.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def find_images(
    root: pathlib.Path, follow_links: bool, max_pixels: int
) -> tuple[list[str], list[str]]:
    """Returns the images beneath `root` and the class of each.

    Args:
        root: path. The folder of class folders.
        follow_links: bool. See `from_folder`.
        max_pixels: int. See `from_folder`.

    Returns:
        `(paths, labels)`. A label is the path of the image's folder from `root`
        on, with `/` between its parts.

    Raises:
        ValueError: See `from_folder`.
    """
    if not root.is_dir():
        raise ValueError(f"`path` must be a folder. Received: path={str(root)}")
    paths = sorted(_images(root, follow_links, {root.resolve()}))
    if not paths:
        raise ValueError(
            f"`path` must hold folders of {', '.join(EXTENSIONS)} images; "
            f"there is none. Received: path={str(root)}"
        )
    for path in paths:
        _check_length(path, max_pixels)
    labels = [path.parent.relative_to(root).as_posix() for path in paths]
    if "." in labels:
        raise ValueError(
            "Each image must be in the folder of its class; "
            f"{paths[labels.index('.')].name} is in none. Received: "
            f"path={str(root)}"
        )
    return [str(path) for path in paths], labels


def _images(
    folder: pathlib.Path, follow_links: bool, above: set[pathlib.Path]
) -> Iterator[pathlib.Path]:
    """Yields the images in a folder; `above` holds it and those above it."""
    for path in sorted(folder.iterdir()):
        # Editors and notebooks keep copies in hidden folders.
        if path.name.startswith("."):
            continue
        is_image = path.suffix.lower() in EXTENSIONS
        if path.is_symlink():
            _check_link(path, is_image, follow_links)
        if path.is_dir():
            target = path.resolve()
            if target in above:
                raise ValueError(
                    "Links must not form a loop; following them comes back "
                    f"to the folder {target}. Received: {path}"
                )
            yield from _images(path, follow_links, above | {target})
        elif is_image:
            _check_path(path)
            if not path.is_file():
                raise ValueError(
                    "An image must be a regular file, not a pipe, a socket or "
                    f"a device. Received: {path}"
                )
            yield path


def _check_path(path):
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            "The path of an image must be UTF-8, because TensorFlow reads no "
            "other. Rename the file or folder, such as with `os.rename`. "
            f"Received: {os.fsencode(path)!r}"
        ) from error


def _check_length(path, max_pixels):
    # The file is read as a whole. Of formats without compression, PNG has most
    # bytes for a pixel: four channels of 16 bits.
    limit = 8 * max_pixels + 2**20
    length = path.stat().st_size
    if length > limit:
        raise ValueError(
            f"An image of `max_pixels` needs no more than {limit} bytes; this "
            f"file has {length}. Received: {path}, max_pixels={max_pixels}"
        )


def _check_link(link, is_image, follow_links):
    # Of a link that leads nowhere nobody knows that it was no class.
    matters = is_image or link.is_dir() or not link.exists()
    if matters and not follow_links:
        raise ValueError(
            "The folder holds a symbolic link. To read what it leads to, pass "
            f"`follow_links=True`. Received: {link}, follow_links=False"
        )
    if not link.exists():
        raise ValueError(
            "Links must lead to a file or folder; this one leads nowhere, or "
            f"to itself in a loop. Received: {link}"
        )
