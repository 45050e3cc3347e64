"""Which Collections' images a local server may show: one link each in its `served/` folder, its document root."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from artgate.artworks.collection import Collection
from artgate.errors import UserError

FOLDER = "served"


def serve_images(data: Path, collection: Collection) -> Path:
    """Let the server of this data folder show a Collection's images; the link, whose name is the folder's in addresses.

    Raises UserError where a link among the images would show what lies elsewhere.
    """
    images = (collection.root / "images").resolve()
    for entry in os.scandir(images):
        if entry.is_symlink():
            raise UserError(f"{entry.path} is a link, and would show a file from elsewhere: put the file itself there")
    link = data / FOLDER / hashlib.sha256(str(images).encode()).hexdigest()[:16]
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        with suppress(FileExistsError):  # another push was faster
            link.symlink_to(images, target_is_directory=True)
    return link


def served_images(data: Path) -> list[Path]:
    """The image folders that the server of this data folder may show; links to what is gone are taken away."""
    folders = []
    for link in sorted((data / FOLDER).glob("*")):
        if link.is_symlink() and not link.is_dir():
            link.unlink()
        elif link.is_symlink():
            folders.append(link.resolve())
    return folders
