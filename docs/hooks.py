"""Brings the files of the checkout's root into the site: no page twice."""

import pathlib

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent


def on_files(files, config):
    """Adds README.md as the first page, and what it links to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    # The site's root is the folder docs/.
    readme = readme.replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"):
        files.append(
            File.generated(config, name, abs_src_path=str(ROOT / name))
        )
    return files
