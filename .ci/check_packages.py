"""Checks what is in the wheel and the source package: their folder's path."""

import pathlib
import sys
import tarfile
import zipfile

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent
# What the source package needs besides, to be built and read.
SOURCES = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}


def package_files():
    """The files of the package, as the checkout has them."""
    modules = CHECKOUT.glob("keras_maml/**/*.py")
    return {
        str(path.relative_to(CHECKOUT))
        for path in [*modules, CHECKOUT / "keras_maml" / "py.typed"]
    }


def check_wheel(path):
    names = set(zipfile.ZipFile(path).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == package_files(), names - metadata
    assert any(name.endswith("/LICENSE") for name in metadata), metadata


def check_source_package(path):
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = (SOURCES | package_files()) - names
    assert not missing, missing


def main(folder):
    [wheel] = pathlib.Path(folder).glob("*.whl")
    [source_package] = pathlib.Path(folder).glob("*.tar.gz")
    check_wheel(wheel)
    check_source_package(source_package)
    print(f"{wheel.name} and {source_package.name} are whole.")


if __name__ == "__main__":
    main(*sys.argv[1:])
