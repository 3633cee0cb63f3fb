"""The log of both processes: lines of text, or of JSON with the batch each is about."""

from __future__ import annotations

import logging
import sys
import time

import orjson

from shoal.server.server_options import LogFormat


class _JsonLines(logging.Formatter):
    """A record as a line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """With the batch it is about, if any."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (batch := getattr(record, "batch", None)) is not None:
            line["batch"] = batch
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def set_up_log(form: LogFormat, process: str) -> None:
    """Log to standard error from now on; `process` is "server" or "engine"."""
    handler = logging.StreamHandler(sys.stderr)
    name = "" if process == "server" else f"{process}: "
    plain = logging.Formatter(f"%(asctime)s %(levelname)s {name}%(message)s")
    handler.setFormatter(_JsonLines(process) if form is LogFormat.json else plain)
    level = logging.INFO if process == "server" else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler])
