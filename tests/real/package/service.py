"""The HTTP service of the tests: a domain, an alias, and keys that are their own values."""
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps

VALUES = {"/domain/example.org": "example.org", "/alias/info@example.org": "root@localhost"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        path = self.path.replace("%40", "@")
        key = path.rsplit("/", 1)[1]
        value = VALUES.get(path, f"own {key}" if key[0].isdigit() else None)
        body = dumps(value).encode()
        self.send_response(200 if value else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
