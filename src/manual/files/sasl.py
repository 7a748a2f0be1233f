# sasl.py: python3 sasl.py 8080
import hashlib, hmac, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = {  # salt and scrypt of the password, here "secret"
    "alice@example.org": ("5a17c0de", "633950272b90bf8b8a9d135e6a47c871ec25bdbb9cd50d807fe2ad7f30b3c920"),
}

def digest(salt, password):
    return hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=1024, r=8, p=1).hex()[:64]

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_POST(self):
        login = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = login["username"].lower()
        salt, known = USERS.get(user, ("00", ""))
        right = hmac.compare_digest(digest(salt, login["password"]), known)
        self.answer(200 if right else 403, user if right else {"detail": "wrong user or password"})

    def do_GET(self):  # /owner/ADDRESS: who may send as this address
        address = self.path.rpartition("/")[2].replace("%40", "@").lower()
        self.answer(200 if address in USERS else 404, address if address in USERS else None)

    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
