# moving.py: python3 moving.py 8080 mail.db
import json, sqlite3, sys, threading, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SQL = {  # the queries of the maps, as they were
    "alias": "SELECT goto FROM alias WHERE address = ? AND active",
    "domain": "SELECT domain FROM domain WHERE domain = ?",
    "mailbox": "SELECT maildir FROM mailbox WHERE username = ?",
}
local = threading.local()  # one database connection per connection from Podop

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        table, _, key = self.path[1:].partition("?key=")
        try:
            if not hasattr(local, "db"): local.db = sqlite3.connect(sys.argv[2], timeout=5)
            local.db.row_factory = lambda cursor, row: {column[0]: v for column, v in zip(cursor.description, row)}
            self.answer(200, local.db.execute(SQL[table], (urllib.parse.unquote(key),)).fetchall())
        except sqlite3.Error as error:
            self.answer(503, {"detail": str(error)})

    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/problem+json" if status == 503 else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
