"""What an idle connection costs: resident bytes of the server over thousands of them, each after one request."""
import resource
import socket
import ssl
import time

from measure import Failure, Server

CONNECTIONS = 5000
# A server may limit the connections of one address: each of these opens its share.
SOURCES = [f"127.0.63.{n}" for n in range(1, 11)]
REQUEST = "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"


def bytes_per_connection(server: Server, address: tuple, host: str, path: str, tls: bool) -> float:
    """Opens the connections, waits until the server's memory has settled, closes them."""
    raise_file_limit()
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
    # What the first connections cause to be allocated belongs to no connection.
    for source in SOURCES:
        connect(address, source, host, path, context).close()
    before = settled(server)
    connections = []
    try:
        for number in range(CONNECTIONS):
            connections.append(connect(address, SOURCES[number % len(SOURCES)], host, path, context))
        return (settled(server) - before) / CONNECTIONS
    finally:
        for connection in connections:
            connection.close()


def connect(address: tuple, source: str, host: str, path: str, context) -> socket.socket:
    connection = socket.create_connection(address, 10, source_address=(source, 0))
    if context:
        connection = context.wrap_socket(connection, server_hostname=host)
    connection.sendall(REQUEST.format(path=path, host=host).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        read = connection.recv(65536)
        if not read:
            raise Failure(f"{address}: connection closed before its answer")
        answer += read
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise Failure(f"{address}: {head.splitlines()[0].decode()}")
    length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return connection


def settled(server: Server) -> int:
    """Resident bytes once they have not moved for two seconds, after fifteen at the latest."""
    last, since, deadline = server.resident_bytes(), time.monotonic(), time.monotonic() + 15
    while time.monotonic() < min(since + 2, deadline):
        time.sleep(0.1)
        now = server.resident_bytes()
        if abs(now - last) > 64 * 1024:
            last, since = now, time.monotonic()
    return last


def raise_file_limit() -> None:
    """For this process, and for servers it has yet to start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
