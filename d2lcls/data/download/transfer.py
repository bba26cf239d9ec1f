"""Download one file over HTTP: resumed where it broke off, checked when it is whole."""

import hashlib
import sys
from urllib.parse import urlsplit

from d2lcls.machine.progress import display_mode

import requests
import urllib3
from tqdm import tqdm

CONNECT_TIMEOUT, READ_TIMEOUT = 5, 30  # seconds
ATTEMPTS = 5  # connections made for one file, as long as each brings it further
CHUNK = 1 << 16  # bytes; what has arrived of a chunk is lost when the connection breaks


class SourceFailed(Exception):
    """A source did not give the data; the message is the reason, in one line."""


def download(address, checksum, folder):
    """Download a file, going on from where an earlier call stopped.

    What has arrived is kept in `folder` as `CHECKSUM.part`. The name makes sure that parts of two different
    files are never joined, while the same file may be finished from another server.

    Args:
        address: URL.
        checksum: hexadecimal sha1 or sha256 that the file must have.
        folder: `Path` of an existing folder.

    Returns:
        `Path` of the whole, checked file; the caller moves or deletes it.

    Raises:
        SourceFailed: no connection, an HTTP error, or a wrong checksum (the file is then deleted).
        OSError: the folder cannot be written.
    """
    part = folder / f"{checksum}.part"
    for _ in range(ATTEMPTS):
        begun = part.stat().st_size if part.exists() else 0
        try:
            receive(address, part, begun)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = explain(error)
            if part.exists() and part.stat().st_size > begun:
                continue  # the connection broke, but it brought something: ask for the rest
            raise SourceFailed(reason) from error
        found = file_checksum(part, "sha1" if len(checksum) == 40 else "sha256")
        if found == checksum:
            return part
        part.unlink()
        reason = f"sent a damaged file (checksum {found[:8]}..., expected {checksum[:8]}...), which was deleted"
        if begun == 0:
            break  # otherwise the older part may be to blame: once more from the start
    raise SourceFailed(reason)


def receive(address, part, begun):
    """Append what `part` lacks; a server that ignores the request for a range makes it start over."""
    headers = {"Accept-Encoding": "identity"}  # the checksum is of the bytes as they are stored
    if begun:
        headers["Range"] = f"bytes={begun}-"
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    with requests.get(address, headers=headers, stream=True, timeout=timeout) as response:
        if begun and response.status_code == 416:
            return  # there is nothing after `begun`: the part is whole, or wrong, as its checksum will tell
        response.raise_for_status()
        if response.status_code != 206:
            begun = 0
        length = int(response.headers.get("Content-Length", 0))
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
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
        if received < length:  # urllib3 before 2.0 ends such a stream without a word
            raise urllib3.exceptions.ProtocolError("broke off")


def explain(error):
    """Say in a few words why a request failed."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code} {error.response.reason}".rstrip()
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


def file_checksum(path, algorithm="sha1"):
    """Return the hexadecimal checksum of a file."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
