"""curl against a server of Python's: big bodies up and down, chunks, keep-alive, TLS with a certificate of our own."""

from pathlib import Path

from . import http_client as http
from .side import checksum, equal

NEEDS = ["curl", "python3", "openssl"]
SERVER = Path(__file__).with_name("http_server.py")


def suites():
    return [("curl", True, run)]


def certificate(side):
    """A key and a certificate that signs itself, for this host, in one file."""
    pem = side.work / "own.pem"
    side.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", pem, "-out", side.work / "certificate.pem", "-days", "30", "-subj", "/CN=127.0.0.1",
        "-addext", "subjectAltName=IP:127.0.0.1",
    ])
    with open(pem, "a") as both:
        both.write((side.work / "certificate.pem").read_text())
    return pem


def run(side):
    root, files = http.bodies(side)
    plain, tls = side.port(), side.port()
    pem = certificate(side)
    with (
        side.server(["python3", SERVER, plain, root], plain),
        side.server(["python3", SERVER, tls, root, pem], tls),
    ):
        for scheme, port, trust in (("http", plain, []), ("https", tls, ["--cacert", pem])):
            cases(side, scheme, f"{scheme}://127.0.0.1:{port}", trust, root, files)


def cases(side, scheme, url, trust, root, files):
    small, big = files["small.bin"], files["big.bin"]
    close = ["--no-keepalive", "-H", "Connection: close"]
    path = root / "big.bin"

    def upload(*words):
        said = http.curl(side, *trust, *words, "-w", " %{http_code}", f"{url}/up")
        equal("answer to an upload", said, f"{big[0]} {big[1]} 200")

    def chunked():
        out = side.work / "chunked"
        http.curl(side, *trust, "-o", out, f"{url}/chunked")
        equal("checksum of chunks", checksum(out), big[1])

    def early_end():
        """curl goes away in the middle; the server lives on."""
        http.curl(side, *trust, "--max-filesize", "1000", "-o", "/dev/null", f"{url}/big.bin", status=63)
        http.get(side, f"{url}/small.bin", small, *trust)

    def down(file, body, *words, times=1):
        return http.get(side, f"{url}/{file}", body, *trust, *words, times=times)

    side.case(f"{scheme}: big download", down, "big.bin", big)
    side.case(f"{scheme}: keep-alive", lambda: down("small.bin", small, times=30))
    side.case(f"{scheme}: no keep-alive", lambda: down("small.bin", small, *close, times=10))
    side.case(f"{scheme}: chunks", chunked)
    side.case(f"{scheme}: big upload", upload, "-X", "POST", "--data-binary", f"@{path}")
    side.case(f"{scheme}: big upload without Expect", upload, "-H", "Expect:", "-T", path)
    side.case(f"{scheme}: chunked upload", upload, "-H", "Transfer-Encoding: chunked", "-T", path)
    side.case(f"{scheme}: limited rate", down, "small.bin", small, "--limit-rate", "2K")
    side.case(f"{scheme}: client that goes away", early_end)
