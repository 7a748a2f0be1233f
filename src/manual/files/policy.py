# policy.py: python3 policy.py 8080; sender=RATE messages per minute, some senders refused, new ones greylisted
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RATE, DELAY, REFUSED = 5, 60, {"spammer@example.com"}
buckets, first_seen, lock = {}, {}, threading.Lock()

def decide(mail):
    sender, now = mail["sender"].lower(), time.time()
    if sender in REFUSED: return "REJECT 5.7.1 We do not want your mail"
    with lock:
        if mail.get("sasl_username"):  # a token bucket per user
            tokens, since = buckets.get(mail["sasl_username"], (RATE, now))
            tokens = min(RATE, tokens + (now - since) * RATE / 60)
            if tokens < 1: return "DEFER 4.7.1 Too many messages, try again in a minute"
            buckets[mail["sasl_username"]] = tokens - 1, now
            return None  # DUNNO: other restrictions decide
        triplet = mail["client_address"], sender, mail["recipient"].lower()
        if now - first_seen.setdefault(triplet, now) < DELAY: return "DEFER_IF_PERMIT 4.2.0 Greylisted, try again later"
    return None

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_POST(self):
        mail = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps(decide(mail)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
