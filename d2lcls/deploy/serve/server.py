"""The service from its start to its end: socket, signals, reloads, and a stop that finishes what it accepted."""

import asyncio
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from d2lcls.deploy.manifest import ModelError, read_manifest
from d2lcls.deploy.serve.batching import Batcher
from d2lcls.deploy.serve.http import Connection
from d2lcls.deploy.serve.metrics import Metrics
from d2lcls.deploy.serve.service import Service

import uvloop


def run(folder, log, limits, host="127.0.0.1", port=8080, token=None, engines=1, threads=1, access=False):
    """Serve a model folder until SIGTERM or SIGINT; SIGHUP loads it anew.

    Args:
        folder: a model folder.
        log: function of (level, event) and named details, see `make_log`.
        limits: `Limits`.
        host, port: where to listen; port 0 takes a free one, which the event "serving" tells.
        token: what clients must send as a bearer token; None for no such thing.
        engines: processes that compute.
        threads: of each of them.
        access: log every request.

    Raises:
        FileNotFoundError, ModelError: the model cannot be used.
        OSError: the address cannot be listened at.
    """
    server = Server(Path(folder), log, limits, token, engines, threads, access)
    listening = _listen(host, port)
    _allow_files(2 * limits.connections + 100)
    sys.setswitchinterval(0.0005)  # the event loop does not wait for threads that decode
    try:
        uvloop.run(server.serve(listening))
    finally:
        listening.close()


class Server:
    """What runs: one `Service`, the `Batcher` it uses, and those that still finish what they admitted."""

    def __init__(self, folder, log, limits, token, engines, threads, access):
        self.folder, self.log, self.limits, self.engines, self.threads = folder, log, limits, engines, threads
        self.metrics = Metrics()
        self.service = Service(limits, self.metrics, log, token, self.reload, access)
        self.batchers, self.reloading, self.stopped = [], None, None

    async def serve(self, listening):
        """Load the model, listen, and stop when told to."""
        loop = self.service.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        ticking = asyncio.ensure_future(self._tick())
        opening = asyncio.ensure_future(self._open())
        stopping = asyncio.ensure_future(self.stopped.wait())
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
            if self.stopped.is_set():
                return
            self.service.use(opening.result())
            server = await loop.create_server(lambda: Connection(self.service), sock=listening, backlog=1024)
            host, port = listening.getsockname()[:2]
            self.log(
                "info",
                "serving",
                model=self.service.batcher.content["name"],
                host=host,
                port=port,
                process=os.getpid(),
                token=bool(self.service.token),
            )
            if not self.service.token and not host.startswith("127.") and host != "::1":
                self.log("warning", "anyone who can reach this address can use the service: give it a token")
            await self.stopped.wait()
            self.service.closing = True  # each answer says now that it is the last one of its connection
            await asyncio.sleep(0.1)  # for requests that were sent before
            server.close()
            await self._finish()
        finally:
            for task in (ticking, opening, stopping):
                task.cancel()
            for connection in list(self.service.connections):
                connection.transport.abort()
            await asyncio.gather(*(asyncio.wait_for(one.close(), 5) for one in self.batchers), return_exceptions=True)
            self.service.decoders.shutdown(wait=False)
        self.log("info", "stopped")

    async def _open(self):
        # A model that is damaged is told at once, and in a thread, as large files take a while to be checked.
        await asyncio.get_running_loop().run_in_executor(None, read_manifest, self.folder)
        batcher = Batcher(self.folder, self.limits, self.engines, self.threads, self.metrics, self.log)
        self.batchers.append(batcher)
        try:
            return await batcher.open()
        except BaseException:
            self.batchers.remove(batcher)
            await batcher.close()
            raise

    async def _tick(self):
        beats = 0
        while True:
            await asyncio.sleep(0.05)
            for batcher in self.batchers:
                batcher.expire()
            beats = (beats + 1) % 20
            if not beats:
                self.service.tick()

    async def _finish(self):
        self.log("info", "stopping", requests=sum(one.active is not None for one in self.service.connections))
        self.service.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.grace
        while any(one.active or one.reading for one in self.service.connections) and loop.time() < until:
            await asyncio.sleep(0.01)
        left = sum(one.active is not None for one in self.service.connections)
        if left:
            self.log("warning", "stopped before these were answered", requests=left)
        await asyncio.sleep(0.05)  # for the last answers to leave

    def reload(self):
        """Begin to load the folder anew; returns a Future of (status, content). One at a time."""
        if self.reloading and not self.reloading.done() or self.service.batcher is None:
            busy = asyncio.get_running_loop().create_future()
            busy.set_result((409, {"status": 409, "detail": "The model is being loaded already."}))
            return busy
        self.reloading = asyncio.ensure_future(self._reload())
        return self.reloading

    async def _reload(self):
        try:
            batcher = await self._open()
        except (ModelError, OSError) as error:
            self.metrics.reloads.labels("refused").inc()
            self.log("error", "reload refused", error=str(error))
            return 422, {"status": 422, "detail": f"The old model stays: {error}"}
        old = self.service.batcher
        self.service.use(batcher)
        self.metrics.reloads.labels("done").inc()
        self.log("info", "reloaded", model=batcher.content["name"])
        self.retiring = asyncio.ensure_future(self._retire(old))
        return 200, {"model": batcher.content["name"], "files": batcher.content["files"]}

    async def _retire(self, batcher):
        await batcher.close()
        self.batchers.remove(batcher)


def _allow_files(number):
    """Allow the process so many open files, as far as the system lets it: else connections use up those of a reload."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        number = min(number, most)
    if least != resource.RLIM_INFINITY and least < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, most))


def _listen(host, port):
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise OSError(
            error.errno,
            f"{host} is no address of this machine ({error.strerror}). Name one, such as 127.0.0.1 or 0.0.0.0",
        ) from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(
            error.errno,
            f"{host}:{port} cannot be listened at ({error.strerror}). Choose another address "
            "or port, or stop what listens there",
        ) from error
    return listening
