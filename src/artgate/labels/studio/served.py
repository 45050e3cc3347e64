"""Which Collections' images a local server may show: one link each in its `served/` folder, its document root.

A link's name stands in the addresses of tasks. It is kept in the Collection, in `.served-as`, so that a Collection that
was moved is shown under the same addresses once it is served from its new place.
"""

import os
import re
import secrets
from pathlib import Path

from artgate.artworks.collection import Collection
from artgate.artworks.files import write_atomic
from artgate.errors import UserError

FOLDER, NAME = "served", ".served-as"
_NAME = re.compile(r"[0-9a-f]{16}")


def serve_images(data: Path, collection: Collection) -> Path:
    """Let the server of this data folder show a Collection's images; the link to them.

    Raises UserError where a link among the images would show what lies elsewhere.
    """
    images = (collection.root / "images").resolve()
    for entry in os.scandir(images):
        if entry.is_symlink():
            raise UserError(f"{entry.path} is a link, and would show a file from elsewhere: put the file itself there")
    link = data / FOLDER / _name(collection.root)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != images:
        new = link.with_name(f".{link.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(images, target_is_directory=True)
        new.replace(link)
    return link


def served_images(data: Path) -> list[Path]:
    """The image folders that the server of this data folder may show, those of moved Collections left out."""
    links = sorted((data / FOLDER).glob("*"))
    return [link.resolve() for link in links if link.is_symlink() and link.is_dir()]


def _name(root: Path) -> str:
    path = root / NAME
    name = path.read_text().strip() if path.is_file() else ""
    if not _NAME.fullmatch(name):
        name = secrets.token_hex(8)
        write_atomic(path, name + "\n")
    return name
