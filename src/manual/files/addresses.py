# addresses.py: DSN='host=/run/postgresql dbname=mail' python3 addresses.py 8080
import json, os, sys, threading, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import psycopg2

SQL = "SELECT maildir FROM mailbox WHERE address = lower(%s) AND active"
local = threading.local()  # one database connection per connection from Podop

def query(key):
    for attempt in range(2):
        try:
            if not hasattr(local, "db"):
                local.db = psycopg2.connect(os.environ["DSN"], connect_timeout=3, options="-c statement_timeout=3000")
                local.db.autocommit = True
            with local.db.cursor() as cursor:
                cursor.execute(SQL, (key,))
                return cursor.fetchone()
        except psycopg2.OperationalError:  # the database may have been restarted
            vars(local).pop("db", None)
            if attempt: raise

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        try:
            row = query(urllib.parse.unquote(self.path.rpartition("/")[2]))
            self.answer(200 if row else 404, row and row[0], "max-age=60")
        except (psycopg2.Error, ValueError):
            self.answer(503, None, "no-store")

    def answer(self, status, value, cache_control):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Cache-Control", cache_control)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
