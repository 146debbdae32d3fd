"""Logs lines through the OpenTelemetry SDK and its OTLP exporter over HTTP: URL COUNT."""

import logging
import sys

from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

url, count = sys.argv[1], int(sys.argv[2])


class Failing(logging.Handler):
    """What the exporter only logs is the end of this script."""

    failed = False

    def emit(self, record):
        Failing.failed = True
        print(record.getMessage(), file=sys.stderr)


logging.basicConfig(level=logging.WARNING, handlers=[Failing()])
for compression in (Compression.NoCompression, Compression.Gzip):
    resource = Resource({"service.name": f"otel-{compression.value}", "odd": 'a",b="x'})
    provider = LoggerProvider(resource=resource)
    exporter = OTLPLogExporter(endpoint=url, compression=compression)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logger = provider.get_logger("app")
    for number in range(count):
        logger.emit(
            body=f'line {number}: "quoted", \\ and ü',
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            attributes={"number": number, "user.id": "u-7"},
        )
    provider.shutdown()
sys.exit(1 if Failing.failed else 0)
