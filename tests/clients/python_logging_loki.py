"""Logs lines through the standard library's logging and python-logging-loki: URL COUNT."""

import logging
import sys

import logging_loki

url, count = sys.argv[1], int(sys.argv[2])
handler = logging_loki.LokiHandler(url=url, tags={"job": "python"}, version="1")


def fail(_record):
    raise


handler.handleError = fail
logger = logging.getLogger("app")
logger.addHandler(handler)
for number in range(count):
    logger.warning('line %d: "quoted", \\ and ü', number, extra={"tags": {"odd": 'a",b="x'}})
