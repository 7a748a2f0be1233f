# relay.py: python3 relay.py 8080
import json, sys, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import dns.exception, dns.name, dns.resolver

RELAY = "mx.example.net."  # this host, as MX records name it
resolver = dns.resolver.Resolver()
if len(sys.argv) > 2: resolver.nameservers, resolver.port = ["127.0.0.1"], int(sys.argv[2])

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        domain = urllib.parse.unquote(self.path.rpartition("/")[2])
        try:
            name = dns.name.from_text(domain)
        except (dns.exception.DNSException, UnicodeError):
            return self.answer(404, None, 3600)  # no domain can have such a name
        try:
            records = resolver.resolve(name, "MX", lifetime=3)
            ours = any(str(record.exchange).lower() == RELAY for record in records)
            self.answer(200 if ours else 404, domain if ours else None, records.rrset.ttl)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            self.answer(404, None, 60)
        except dns.exception.DNSException:
            self.answer(503, None, 0)

    def answer(self, status, value, seconds):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Cache-Control", f"max-age={seconds}")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
