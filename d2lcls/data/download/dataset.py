"""What describes a data set: its classes, files, checksums, sources and licence."""

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit


class File(NamedTuple):
    """One file of a data set as it lies in the cache.

    Args:
        name: relative to the folder of the data set, with "/" between folders.
        size: bytes.
        sha1: of the content, hexadecimal.
        split: "train", "val" or "test"; empty for a file that holds no images, such as a licence.
        blob: `sha1` is that of a git blob, as `git ls-tree` prints it: of "blob SIZE", a zero byte and the content.
    """

    name: str
    size: int
    sha1: str
    split: str
    blob: bool = False

    @property
    def header(self) -> bytes:
        """What is hashed before the content."""
        return b"blob %d\0" % self.size if self.blob else b""


@dataclass(frozen=True)
class Download:
    """One file on a web server.

    Args:
        address: URL.
        checksum: its sha1 (40 hexadecimal digits) or sha256 (64); None if the server packs it anew from time to time,
            so that only its contents can be checked.
    """

    address: str
    checksum: str | None


@dataclass(frozen=True)
class Source:
    """One source of a data set.

    Args:
        title: its name in messages.
        kind: "web" downloads `downloads` (`.tar.gz` or `.gz`); "npm" and "apt" run that program to fetch
            `package`.
        downloads: the files of kind "web".
        package: name of the package, with its version for npm.
    """

    title: str
    kind: str
    downloads: tuple[Download, ...] = ()
    package: str = ""

    @property
    def host(self) -> str | None:
        """The name of the web server, or None if npm or apt chooses the server."""
        return urlsplit(self.downloads[0].address).hostname if self.downloads else None


@dataclass(frozen=True)
class Dataset:
    """The description of one data set.

    Args:
        name: for `load`.
        title: for people.
        classes: class names; a label is a position in them.
        image_shape: (H, W, C) of an image; of photographs, unless `load` is given another size.
        splits: number of images of each split.
        files: the files of the data, in the order of the images.
        layout: of the files, "cifar" (records of label, red, green, blue), "idx" (images, then labels) or "photographs"
            (one a file, in a folder with the name of its class).
        sources: in the order in which they are tried.
        space: free disk space that fetching needs at most, bytes.
        licence: the terms of use.
        citation: what to cite.
        groups: for each class, the name of the group that it belongs to; empty if the set has none.
        revision: the commit of a repository that the files are those of; empty if they have no common version.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    splits: dict[str, int]
    files: tuple[File, ...]
    layout: str
    sources: tuple[Source, ...]
    space: int
    licence: str
    citation: str
    groups: tuple[str, ...] = ()
    revision: str = ""
