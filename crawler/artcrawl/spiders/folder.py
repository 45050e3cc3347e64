"""A local folder or zip archive, through the same checks and into the same Collection as what is crawled."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from artgate.artworks.artwork import Provenance
from artgate.artworks.decode import SUFFIXES, Refused
from artgate.artworks.importers import image_files
from artgate.artworks.text import clean_text
from artgate.errors import UserError

from ..archives import Archive
from ..items import Found, Lost
from ..pages import Page
from .local import LocalSpider

TEXTS = ("creator", "licence", "terms", "generator")
_SUFFIXES = frozenset().union(*SUFFIXES.values())


class FolderSpider(LocalSpider):
    """Every PNG, JPEG and WebP file in a folder (and below it), or in a zip archive.

    Arguments besides those of `CollectingSpider`: path, the folder or archive; source, its name in the provenance;
    creator, licence, terms, generator: what holds for all its images. Generation parameters inside the files fill in
    the rest. A file is known by its name, size and time: one that changed is taken anew.
    """

    name = "folder"
    needs_contact = False
    further = (*LocalSpider.further, *TEXTS)

    def __init__(self, path: str = "", collection: str = "", source: str = "folder", **arguments: Any) -> None:
        if not path or not collection:
            raise UserError("path and collection are needed: give -a path=FOLDER_OR_ZIP -a collection=FOLDER")
        told: dict[str, Any] = {name: clean_text(arguments.pop(name, ""), 500) or None for name in TEXTS}
        self.provenance = Provenance(source=clean_text(source, 100), **told)
        super().__init__(collection, self.provenance.source, **arguments)
        self.path = Path(path).resolve()
        if not self.path.is_dir():
            if self.path.suffix.lower() != ".zip" or not self.path.is_file():
                raise UserError(f"path {path} is neither a folder nor a .zip file: check it")
            Archive(self.path).close()
        elif self.collection_root.resolve().is_relative_to(self.path):
            raise UserError(f"collection {collection} lies in {path}, and would be read as well: put it beside it")
        self.strata = (self.path.as_uri(),)

    async def start(self) -> AsyncIterator[Found | Lost]:
        """All files."""
        page = Page(self.strata[0])
        async for item in self.page_items(page, self._files(page) if self.path.is_dir() else self._members(page)):
            yield item

    def _files(self, page: Page) -> Iterator[Found | Lost]:
        for path in image_files(self.path):
            name = path.relative_to(self.path).as_posix()
            try:
                status = path.stat()
            except OSError as error:  # it went since the folder was listed
                yield Lost(self.source, None, "cannot-read", str(error), path.as_uri(), page.hold())
                continue
            address = f"{path.as_uri()}?{status.st_size}-{status.st_mtime_ns}"
            yield Found(
                address, self._provenance(name), partial(_read_file, path, self.limits.max_bytes), name, page.hold()
            )

    def _members(self, page: Page) -> Iterator[Found | Lost]:
        archive, status = Archive(self.path), self.path.stat()
        for name in archive.names():
            if PurePosixPath(name).suffix.lower() in _SUFFIXES and not PurePosixPath(name).name.startswith("."):
                address = f"{self.path.as_uri()}?{status.st_size}-{status.st_mtime_ns}#{name}"
                read = partial(archive.read, name, self.limits.max_bytes)
                yield Found(address, self._provenance(name), read, name, page.hold())

    def _provenance(self, name: str) -> Provenance:
        # The path stays here: a Collection's metadata may be shared, and tells nobody how this computer's disk looks.
        return replace(self.provenance, source_id=clean_text(name, 500))


def _read_file(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Refused("too-many-bytes", f"the file has more than {max_bytes} bytes")
    return data
