"""app.py LOG PLACE...: an app of a pod, on places like tcp:[::]:8080, udp:127.0.0.1:8080 or unix:/run/app.sock.

It does whatever it is asked to, for anybody, and writes down who asked: a line `KIND PORT PEER` for a connection or a
datagram, and `KIND PORT PEER METHOD PATH` for a request.
"""

import http.server
import socket
import socketserver
import sys
import threading

LOG = open(sys.argv[1], "a", buffering=1, encoding="utf-8")


def note(kind, server, peer, *more):
    # Of a Unix socket's client there is no address.
    place = server.server_address
    port = place[1] if isinstance(place, tuple) else place
    LOG.write(" ".join([kind, str(port), str(peer[0] if peer else "-"), *more]) + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        note(self.server.kind, self.server, self.client_address, self.command, self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"done": true}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Tcp(socketserver.ThreadingMixIn, socketserver.TCPServer):
    kind = "tcp"
    daemon_threads = allow_reuse_address = True

    def verify_request(self, _, peer):
        note(self.kind, self, peer)
        return True


class Tcp6(Tcp):
    address_family = socket.AF_INET6


class Unix(Tcp):
    kind = "unix"
    address_family = socket.AF_UNIX


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        note("udp", self.server, self.client_address)
        self.request[1].sendto(b"done", self.client_address)


class Udp(socketserver.UDPServer):
    max_packet_size = 65_535


class Udp6(Udp):
    address_family = socket.AF_INET6


def serve(place):
    kind, address = place.split(":", 1)
    if kind == "unix":
        return Unix(address, Handler)
    host, port = address.rsplit(":", 1)
    where = (host.strip("[]"), int(port))
    six = host.startswith("[")
    if kind == "udp":
        return (Udp6 if six else Udp)(where, Datagram)
    return (Tcp6 if six else Tcp)(where, Handler)


for server in [serve(place) for place in sys.argv[2:]]:
    threading.Thread(target=server.serve_forever).start()
LOG.write("ready\n")
