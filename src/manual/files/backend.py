import json, sys, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
DATA = {"domain/example.org": "example.org", "mailbox/alice@example.org": "alice@example.org",
        "alias/info@example.org": ["alice@example.org", "bob@example.net"]}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do(self):
        key, old = urllib.parse.unquote(self.path[1:]), None
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        if self.command == "GET" and key not in DATA:  # a path: the names below it; the owner comes last
            path, _, user = key.rpartition("/")
            end = "/" + user if user else ""
            names = [k[len(path) + 1 : len(k) - len(end)] for k in DATA if k.startswith(path + "/") and k.endswith(end)]
            return self.answer(200 if names else 404, names)
        if self.command == "POST": DATA[key] = body
        if self.command == "PATCH" and key in DATA: DATA[key] = int(DATA[key]) + body["increment"]
        self.answer(200 if key in DATA else 404, DATA.get(key))

    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PATCH = do
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
