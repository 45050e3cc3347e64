"""Zip archives from elsewhere, read member by member: nothing is extracted, and nothing larger than it may be."""

import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from threading import Lock

from artgate.artworks.decode import Refused
from artgate.errors import UserError

# The list of members is read as a whole; a million of them take about 100 bytes each.
MAX_DIRECTORY_BYTES = 128 * 2**20
# Others may ask for gigabytes before they give a byte.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """An open zip file. Members are named by the archive, never by the file system, so that no name leads anywhere.

    Raises UserError if the file is not a zip archive, or if the list of its members is too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = _directory_bytes(path)
            if size > MAX_DIRECTORY_BYTES:
                raise UserError(
                    f"{path}: its list of members has {size} bytes, the limit is {MAX_DIRECTORY_BYTES}: "
                    "unpack it yourself and crawl the folder, if you trust it"
                )
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise UserError(f"{path} is not a zip archive ({error}): fetch it again") from None
        self._members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self._reading = Lock()

    def names(self) -> list[str]:
        """The names of all members that are files, sorted."""
        return sorted(self._members)

    def read(self, name: str, max_bytes: int) -> bytes:
        """A member's bytes. Raises Refused with no-such-member, bad-name, too-many-bytes, encrypted or damaged.

        The size that the header states is judged before, and counted while reading.
        """
        info = self._members.get(name)
        if info is None:
            raise Refused("no-such-member", f"{self.path.name} has no {name[:100]!r}")
        if not is_plain(name):
            raise Refused("bad-name", f"{name[:100]!r} leads out of the archive")
        if info.flag_bits & 1:
            raise Refused("encrypted", f"{name[:100]!r} is encrypted")
        if info.compress_type not in METHODS:
            raise Refused("damaged", f"{name[:100]!r} has compression {info.compress_type}, expected deflate or none")
        if info.file_size > max_bytes:
            raise _too_many(name, info.file_size, max_bytes)
        try:
            # Threads share the archive's one file position.
            with self._reading, self._zip.open(info) as member:
                data = member.read(max_bytes + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, struct.error) as error:
            raise Refused("damaged", f"{name[:100]!r} cannot be read: {error}") from None
        if len(data) > max_bytes:
            raise _too_many(name, len(data), max_bytes)
        return data

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


def is_plain(name: str) -> bool:
    """Whether a member's name is a relative path that stays below where it begins, on every system."""
    path = PurePosixPath(name)
    return not (
        path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name or not name.strip()
    )


def _too_many(name: str, size: int, limit: int) -> Refused:
    return Refused("too-many-bytes", f"{name[:100]!r} has {size} bytes or more, the limit is {limit}")


def _directory_bytes(path: Path) -> int:
    """Size of the central directory by the end record (APPNOTE 4.3.16), or of the file where that says ZIP64."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 22 - 65535))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise zipfile.BadZipFile("it has no end record")
    (size,) = struct.unpack("<I", tail[at + 12 : at + 16])
    if size != 0xFFFFFFFF:
        return size
    locator = tail.rfind(b"PK\x06\x07", 0, at)
    with path.open("rb") as file:
        file.seek(struct.unpack("<Q", tail[locator + 8 : locator + 16])[0])
        return int(struct.unpack("<Q", file.read(48)[40:])[0])
