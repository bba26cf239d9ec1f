"""Downloading one file over HTTP, with resumption of interrupted downloads and a check of the complete file."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from d2lcls.machine.progress import display_mode

import requests
import urllib3
from tqdm import tqdm

CONNECT_TIMEOUT, READ_TIMEOUT = 5, 30  # seconds
ATTEMPTS = 5  # connections for one file, as long as each of them receives something
CHUNK = 1 << 16  # bytes; an incomplete chunk is lost when the connection breaks


LARGEST = 1 << 30  # bytes of a file whose size is not known


class SourceFailed(Exception):
    """A source has not delivered the data; the message is the reason, in one line."""


def download(address: str, checksum: str, folder: Path, limit: int) -> Path:
    """Download a file, or what an earlier call has not received of it.

    The received part is kept in `folder` as `CHECKSUM.part`. With this name, parts of two different
    files are never joined, and the same file can be completed from another server.

    Args:
        address: URL.
        checksum: expected hexadecimal sha1 or sha256 of the file.
        folder: an existing folder.
        limit: the most bytes that the file can have; a longer answer is not received.

    Returns:
        path of the complete, checked file; the caller moves or deletes it.

    Raises:
        SourceFailed: no connection, an HTTP error, too many bytes, a redirect to another scheme than http(s),
            or a wrong checksum (the file is then deleted).
        OSError: the folder cannot be written.
    """

    def check(part: Path) -> Path:
        received = file_checksum(part, "sha1" if len(checksum) == 40 else "sha256")
        if received != checksum:
            raise SourceFailed(
                f"sent a damaged file (checksum {received[:8]}..., expected {checksum[:8]}...), which was deleted"
            )
        return part

    return complete(address, folder / f"{checksum}.part", limit, check)


def complete(address: str, part: Path, limit: int, use: Callable[[Path], Path]) -> Path:
    """Download what is missing of a file, and return what `use` makes of it.

    If `use` raises SourceFailed for a file that an earlier call had begun, that part may have been of another version:
    the file is downloaded once more from the start.

    Args:
        address, limit: as for `download`.
        part: the file; what it holds is continued, also after a failure.
        use: function of the complete file; SourceFailed says that it is wrong, and the file is then deleted.

    Raises:
        SourceFailed: as `download`, or raised by `use`.
        OSError: the file cannot be written.
    """
    reason = ""
    for _ in range(ATTEMPTS):
        begun = part.stat().st_size if part.exists() else 0
        try:
            receive(address, part, begun, limit)
        except SourceFailed:
            part.unlink(missing_ok=True)  # it is longer than the file, or what follows it is
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = explain(error)
            if part.exists() and part.stat().st_size > begun:
                continue  # the connection broke after some data: request the rest
            raise SourceFailed(reason) from error
        try:
            return use(part)
        except SourceFailed as failure:
            part.unlink()
            if begun == 0:
                raise
            reason = str(failure)
    raise SourceFailed(reason)


def receive(address: str, part: Path, begun: int, limit: int) -> None:
    """Append the bytes from `begun` on to `part`; start again if the server ignores the request for a range.

    Raises:
        SourceFailed: the file would have more than `limit` bytes.
        requests.RequestException, urllib3.exceptions.HTTPError: no connection, or one that broke.
    """
    headers = {"Accept-Encoding": "identity"}  # the checksum is that of the bytes as stored
    if begun:
        headers["Range"] = f"bytes={begun}-"
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    with requests.get(address, headers=headers, stream=True, timeout=timeout) as response:
        if begun and response.status_code == 416:
            return  # nothing follows `begun`: the part is complete, or damaged, which its checksum will show
        response.raise_for_status()
        if response.status_code != 206:
            begun = 0
        announced = response.headers.get("Content-Length", "")
        length = int(announced) if announced.isdecimal() else 0
        if begun + length > limit:
            raise SourceFailed(f"announced {begun + length:,} bytes, at most {limit:,} were expected")
        received = 0
        with (
            open(part, "ab" if begun else "wb") as file,
            tqdm(
                total=begun + length or None,
                initial=begun,
                unit="B",
                unit_scale=True,
                leave=False,
                desc=urlsplit(address).hostname,
                file=sys.stderr,
                disable=display_mode() == "off",
            ) as bar,
        ):
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                received += len(chunk)
                if begun + received > limit:
                    raise SourceFailed(f"sent more than the {limit:,} bytes that were expected")
                file.write(chunk)
                bar.update(len(chunk))
        if received < length:  # urllib3 before 2.0 raises nothing
            raise urllib3.exceptions.ProtocolError("broke off")


def explain(error: Exception) -> str:
    """Return in a few words why a request failed."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)):
        return "redirected to an address that is not http or https"
    if isinstance(error, requests.ConnectTimeout):
        return f"no answer within {CONNECT_TIMEOUT} s"
    if isinstance(error, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
        return f"sent nothing for {READ_TIMEOUT} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate was not accepted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if "resolve" in str(error) or "getaddrinfo" in str(error):
        return "host name not found (no network?)"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "the connection broke off; what arrived is kept, and another try goes on from there"
    return type(error).__name__


def file_checksum(path: str | Path, algorithm: str = "sha1", header: bytes = b"") -> str:
    """Return the hexadecimal checksum of a file, or of a header and what the file contains."""
    digest = hashlib.new(algorithm, header)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
