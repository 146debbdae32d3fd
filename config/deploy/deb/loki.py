"""Takes pushes as a Loki does, for the test of the package: bodies go to FILE, the port to FILE.port."""

import http.server
import sys

file = sys.argv[1]


class Loki(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        with open(file, "ab") as pushes:
            pushes.write(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


open(file, "wb").close()
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Loki) as server:
    with open(file + ".port", "w") as port:
        port.write(str(server.server_address[1]))
    server.serve_forever()
