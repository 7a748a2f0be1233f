"""Looks keys up as Postfix does, until its input ends; then prints how many were answered, and whatever was wrong.

A connection that is closed without an answer is made once more, as in dict_sockmap.c. Anything else is a lost lookup.
"""
import socket
import sys
import threading

running = True


def ask(stream, key):
    request = f"alias {key}".encode()
    stream.sendall(b"%d:%s," % (len(request), request))
    reply = b""
    while not reply.endswith(b","):
        part = stream.recv(4096)
        if not part:
            raise ConnectionError("closed")
        reply += part
    return reply


def client(number, results):
    stream = None
    count = 0
    while running:
        key = f"{number}-{count}"
        for attempt in 1, 2:
            try:
                if stream is None:
                    stream = socket.socket(socket.AF_UNIX)
                    stream.settimeout(60)
                    stream.connect(sys.argv[1])
                reply = ask(stream, key)
                break
            except OSError as error:
                stream = None
                if attempt == 2:
                    results.append(f"{key}: {error}")
                    return
        value = f"own {key}".encode()
        if b":OK %s," % value not in reply:
            results.append(f"{key}: {reply!r}")
            return
        count += 1
    results.append(count)


results = []
threads = [threading.Thread(target=client, args=(number, results)) for number in range(4)]
for thread in threads:
    thread.start()
sys.stdin.read()
running = False
for thread in threads:
    thread.join()
wrong = [result for result in results if not isinstance(result, int)]
print("\n".join(wrong) if wrong else sum(results))
