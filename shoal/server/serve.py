"""Put the parts together and serve until a signal comes."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from shoal.config import model_names
from shoal.errors import ModelError, OptionError
from shoal.model.lora.adapter_folders import adapter_folders
from shoal.server.dispatch import Clerk, Gathering, Runner
from shoal.server.http import Parts, is_loopback, make_app
from shoal.server.logs import set_up_log
from shoal.server.server_options import Served, ServerOptions
from shoal.server.store import Batches, Database, Files, Keys, data_directory

BACKLOG = 2048
GRACE_SECONDS = 5
"""How long requests under way may take when the server stops."""

_log = logging.getLogger("shoal.server")


def serve(options: ServerOptions, served: Served) -> None:
    """Serve until SIGINT or SIGTERM. Batches that have not ended go on at the next start.

    It answers before the model is loaded; batches wait for that.

    Raises:
        OptionError: an option is wrong, or the address or the data directory is taken.
        ModelError: the model cannot be used.
    """
    set_up_log(options.log_format, "server")
    with data_directory(options.data_dir) as root, _listening(options) as listener:
        database = Database(options.database_url)
        try:
            _serve(options, served, database, Files(database, root), listener)
        finally:
            database.close()


def _serve(
    options: ServerOptions,
    served: Served,
    database: Database,
    files: Files,
    listener: socket.socket,
) -> None:
    batches = Batches(database, files.root, options.max_batches)
    fatal: list[str] = []

    def stop_for(reason: str) -> None:
        fatal.append(reason)
        server.should_exit = True

    gathering = Gathering(options.merge_wait if options.merge else None)
    runner = Runner(batches, served, gathering, stop_for)
    clerk = Clerk(batches, files, runner, served, options.max_requests, stop_for)
    own = model_names(served.model)
    adapters = adapter_folders(served.options.lora, own)
    names = dict.fromkeys((*own, *served.names, *adapters))
    parts = Parts(
        keys=Keys(served.api_keys, database),
        files=files,
        batches=batches,
        names=tuple(name for name in names if name != "*"),
        figures=runner.figures,
        live=runner.live,
        max_file_bytes=options.max_file_bytes,
        max_rate=options.max_rate,
        wake=clerk.wake,
        stopping=lambda: server.should_exit,
        loopback=None if served.api_keys or not is_loopback(options.host) else options.host,
    )
    config = uvicorn.Config(
        make_app(parts),
        log_config=None,
        log_level="warning",  # what it says of itself, `_announce` and others say
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    runner.start()
    clerk.start()
    _announce(listener, options, served)
    try:
        with _signals_end_quietly():
            server.run([listener])
    finally:
        _log.info("stopping; batches go on at the next start")
        clerk.stop()
        runner.stop()
    if fatal:
        raise ModelError(fatal[0])


def _announce(listener: socket.socket, options: ServerOptions, served: Served) -> None:
    port = listener.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{port}"
    _log.info("serving on %s/v1, its page on %s, data in %s", url, url, options.data_dir)
    if not served.api_keys and not is_loopback(options.host):
        _log.warning("no --api-key is given: whoever reaches %s may use the server", host)


@contextmanager
def _listening(options: ServerOptions) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
            listener.listen(BACKLOG)  # from here on a client waits, and is not refused
        except OSError as error:
            where = f"{options.host}:{options.port}"
            raise OptionError(f"cannot listen on {where}: {error.strerror}.") from error
        yield listener


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal that stopped it again, when it has stopped: that is no news."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
