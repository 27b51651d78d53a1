"""Echoes lines and blocks: python_server.py asyncio|asyncio-tls|threading|forking|ssl PORT CERTIFICATE.

A connection sends requests of 8 hexadecimal digits, a length, and as many bytes; each comes back as it is."""

import asyncio
import socketserver
import ssl
import sys

kind, port, certificate = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def echo(reader, writer):
    try:
        while head := await reader.read(8):
            head += await reader.readexactly(8 - len(head)) if len(head) < 8 else b""
            writer.write(head + await reader.readexactly(int(head, 16)))
            await writer.drain()
        writer.close()
    except ConnectionError:
        pass


async def serve():
    context = tls() if kind.endswith("tls") else None
    server = await asyncio.start_server(echo, "127.0.0.1", port, ssl=context, limit=1 << 20)
    async with server:
        await server.serve_forever()


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while head := self.rfile.read(8):
            self.wfile.write(head + self.rfile.read(int(head, 16)))


class Threading(socketserver.ThreadingTCPServer):
    request_queue_size, daemon_threads = 64, True


class Forking(socketserver.ForkingTCPServer):
    request_queue_size = 64


if kind.startswith("asyncio"):
    asyncio.run(serve())
server = (Forking if kind == "forking" else Threading)(("127.0.0.1", port), Handler)
if kind == "ssl":
    server.socket = tls().wrap_socket(server.socket, server_side=True)
server.serve_forever()
