"""The service from start to end: socket, signals, reloads, and a stop that answers what was accepted."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2lcls.deploy.manifest import ModelError, read_manifest
from d2lcls.deploy.serve.batching import Batcher
from d2lcls.deploy.serve.http import Connection
from d2lcls.deploy.serve.limits import Limits
from d2lcls.deploy.serve.metrics import Metrics
from d2lcls.deploy.serve.service import Service

import uvloop

log = logging.getLogger(__name__)


def run(
    folder: str | Path,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    engines: int = 1,
    threads: int = 1,
    log_requests: bool = False,
    allow_hosts: Sequence[str] = (),
    trust: bool = False,
) -> None:
    """Serve a model folder until SIGTERM or SIGINT; SIGHUP loads it again.

    Args:
        folder: a model folder.
        limits: `Limits`; None for the defaults.
        host: address to listen at.
        port: where to listen; 0 chooses a free one, which is logged with the event "serving".
        token: that clients must send as a bearer token; None for a service without a token.
        engines: number of worker processes.
        threads: number of threads of each of them.
        log_requests: log every request.
        allow_hosts: names, besides those of this machine's own address, that requests may have in the header Host
            where `host` is a loopback address. A web page of a foreign site can reach such a service through the
            visitor's browser (DNS rebinding), but not under one of these names.
        trust: load machine code too, as for `open_model`.

    Raises:
        FileNotFoundError, ModelError: the model cannot be used.
        OSError: the service cannot listen at the address.
    """
    limits = limits or Limits()
    hosts = frozenset({"localhost", "127.0.0.1", "[::1]", host, *(name.lower() for name in allow_hosts)})
    loopback = host == "localhost" or host == "::1" or host.startswith("127.")
    hosts = hosts if loopback or allow_hosts else frozenset()
    server = Server(Path(folder), limits, token, engines, threads, log_requests, hosts, trust)
    listening = _listen(host, port)
    _allow_files(2 * limits.connections + 100)
    try:
        uvloop.run(server.serve(listening))
    finally:
        listening.close()


class Server:
    """What runs: one `Service`, the `Batcher` it uses, and batchers that still finish what they admitted."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        token: str | None,
        engines: int,
        threads: int,
        log_requests: bool,
        hosts: frozenset[str],
        trust: bool,
    ) -> None:
        self.folder, self.limits, self.engines, self.threads = folder, limits, engines, threads
        self.trust = trust
        self.metrics = Metrics()
        self.service = Service(limits, self.metrics, token, self.reload, log_requests, hosts)
        self.batchers: list[Batcher] = []
        self.loading: asyncio.Future[Any] | None = None  # the start or a reload, of which there is one at a time

    async def serve(self, listening: socket.socket) -> None:
        """Load the model, listen, and stop at a signal."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        ticking = asyncio.ensure_future(self._tick())
        opening = self.loading = asyncio.ensure_future(self._begin())
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopped.is_set():
                return
            self.service.use(opening.result())
            server = await loop.create_server(lambda: Connection(self.service), sock=listening, backlog=1024)
            host, port = listening.getsockname()[:2]
            details = {"model": self.service.batcher.manifest["name"], "host": host, "port": port}
            log.info("serving", {**details, "process": os.getpid(), "token": bool(self.service.token)})
            if not self.service.token and not host.startswith("127.") and host != "::1":
                log.warning("anyone who can reach this address can use the service: give it a token")
            await stopped.wait()
            self.service.closing = True  # from now on each response is the last one of its connection
            await asyncio.sleep(0.1)  # for requests that were sent before
            server.close()
            await self._finish()
        finally:
            for task in (ticking, opening, stopping):
                task.cancel()
            for connection in list(self.service.connections):
                connection.transport.abort()
            await asyncio.gather(*(one.close(finish=False) for one in self.batchers), return_exceptions=True)
            self.service.decoding.close()
        log.info("stopped")

    async def _begin(self) -> Batcher:
        self.service.decoding.start()
        batcher = await self._open()
        await self.service.decoding.open()
        return batcher

    async def _open(self) -> Batcher:
        # Find a damaged model at once; in a thread, as it takes a while to check large files.
        await asyncio.get_running_loop().run_in_executor(None, read_manifest, self.folder)
        batcher = Batcher(self.folder, self.limits, self.engines, self.threads, self.metrics, self.trust)
        self.batchers.append(batcher)
        try:
            return await batcher.open()
        except BaseException:
            self.batchers.remove(batcher)
            await batcher.close()
            raise

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(0.05)
            self.service.decoding.expire()
            for batcher in self.batchers:
                batcher.expire()
            ticks += 1
            if ticks % 20 == 0:
                self.service.tick()

    async def _finish(self) -> None:
        log.info("stopping", {"requests": sum(one.active is not None for one in self.service.connections)})
        self.service.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.grace
        while any(one.waited_for() for one in self.service.connections) and loop.time() < until:
            await asyncio.sleep(0.01)
        left = sum(one.active is not None for one in self.service.connections)
        if left:
            log.warning("stopped before these were answered", {"requests": left})
        await asyncio.sleep(0.05)  # for the last responses to leave

    def reload(self) -> asyncio.Future[tuple[int, dict[str, Any]]]:
        """Begin to load the folder again; returns a future of (status, content)."""
        if self.loading and not self.loading.done():
            busy = asyncio.get_running_loop().create_future()
            busy.set_result((409, {"status": 409, "detail": "The model is being loaded already."}))
            return busy
        self.loading = asyncio.ensure_future(self._reload())
        return self.loading

    async def _reload(self) -> tuple[int, dict[str, Any]]:
        try:
            batcher = await self._open()
        except (ModelError, OSError) as error:
            self.metrics.reloads.labels("refused").inc()
            log.error("reload refused", {"error": str(error)})
            return 422, {"status": 422, "detail": f"The old model stays: {error}"}
        old, name = self.service.batcher, batcher.manifest["name"]
        self.service.use(batcher)
        self.metrics.reloads.labels("done").inc()
        log.info("reloaded", {"model": name})
        self.retiring = asyncio.ensure_future(self._retire(old))
        return 200, {"model": name, "files": batcher.manifest["files"]}

    async def _retire(self, batcher: Batcher) -> None:
        await batcher.close()
        self.batchers.remove(batcher)


def _allow_files(number: int) -> None:
    """Raise the process's limit of open files, or connections could leave none for a reload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        number = min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise OSError(
            error.errno,
            f"{host} is not an address of this machine ({error.strerror}). Choose one, such as 127.0.0.1 or 0.0.0.0",
        ) from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(
            error.errno,
            f"cannot listen at {host}:{port} ({error.strerror}). Choose another address or port, "
            "or stop the program that uses it",
        ) from error
    return listening
