"""Requests as bytes: some that two servers could read differently, some that are only unusual."""

HOST = b"Host: reverie\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked"


def get(*lines: bytes, target: bytes = b"/healthz", version: bytes = b"1.1") -> bytes:
    head = b"GET " + target + b" HTTP/" + version + b"\r\n" + HOST
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"POST /v1/runs HTTP/" + version + b"\r\n" + HOST
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(CHUNKED, body=body)


REFUSED: dict[str, tuple[bytes, int]] = {
    # Two lengths.
    "length and chunks": (post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + NEXT), 400),
    "chunks and length": (post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + NEXT), 400),
    "the same length twice": (post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"), 400),
    "a list of lengths": (post(b"Content-Length: 2, 2", body=b"{}"), 400),
    "two lengths": (post(b"Content-Length: 2", b"Content-Length: 3", body=b"{} "), 400),
    "a signed length": (post(b"Content-Length: +2", body=b"{}"), 400),
    "a hex length": (post(b"Content-Length: 0x2", body=b"{}"), 400),
    "a length of 23 digits": (post(b"Content-Length: " + b"9" * 23, body=b"{}"), 400),
    # Lines.
    "a folded line": (get(b"X: a", b" b"), 400),
    "a folded coding": (post(b"Transfer-Encoding:\r\n\tchunked", body=b"0\r\n\r\n"), 400),
    "lines that end without CR": (b"GET /healthz HTTP/1.1\nHost: a\n\n", 400),
    "one line that ends without CR": (get(b"X: a\nY: b"), 400),
    "CR in a value": (get(b"X: a\rY: b"), 400),
    "a space before the colon": (post(b"Content-Length : 2", body=b"{}"), 400),
    "a tab before the colon": (post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"), 400),
    "NUL in a value": (get(b"X: a\0b"), 400),
    "NUL in a name": (get(b"X\0: a"), 400),
    "NUL in the target": (get(target=b"/\0"), 400),
    "a control character": (get(b"X: a\x01b"), 400),
    # Codings.
    "gzip": (post(b"Transfer-Encoding: gzip", body=b"{}"), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "chunked, gzip": (post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400),
    "chunked twice": (post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400),
    "identity": (post(b"Transfer-Encoding: identity", body=b"{}"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "chunks in HTTP/1.0": (post(CHUNKED, body=b"0\r\n\r\n", version=b"1.0"), 400),
    # Chunks.
    "a chunk size with 0x": (chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
    "a negative chunk size": (chunked(b"-2\r\n{}\r\n0\r\n\r\n"), 400),
    "a space after a chunk size": (chunked(b"2 \r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk size of 17 digits": (chunked(b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk size that ends without CR": (chunked(b"2\n{}\r\n0\r\n\r\n"), 400),
    "a chunk longer than its size": (chunked(b"2\r\n{}{}\r\n0\r\n\r\n"), 400),
    "a chunk that ends without CR": (chunked(b"2\r\n{}\n0\r\n\r\n"), 400),
    "CR in a chunk extension": (chunked(b"2;a\rb\r\n{}\r\n0\r\n\r\n"), 400),
    "LF in a chunk extension": (chunked(b"2;a\nb\r\n{}\r\n0\r\n\r\n"), 400),
    # Targets and hosts.
    "an absolute target": (get(target=b"http://reverie/healthz"), 400),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT reverie:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target without a slash": (get(target=b"healthz"), 400),
    "a fragment": (get(target=b"/healthz#a"), 400),
    "a target beyond ASCII": (get(target=b"/\xc3\xa4"), 400),
    "a query beyond ASCII": (get(target=b"/healthz?a=\xff"), 400),
    "two hosts": (get(b"Host: other"), 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "a host with a path": (b"GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    # Protocols.
    "HTTP/2.0": (get(version=b"2.0"), 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),
    "an unknown expectation": (post(b"Content-Length: 2", b"Expect: tea", body=b"{}"), 417),
    # Sizes.
    "2,000 headers": (get(*[b"X: y"] * 2000), 431),
    "101 headers": (get(*[b"X: y"] * 100), 431),
    "17 kB of headers": (get(*[b"X: " + b"y" * 1024] * 17), 431),
    "one header of 64 kB": (get(b"X: " + b"y" * 65536), 431),
    "an unfinished header of 300 kB": (HEALTH + b"X: " + b"y" * 300_000, 431),
    "a target of 64 kB": (get(target=b"/" + b"y" * 65536), 414),
    "an unfinished target of 300 kB": (b"GET /" + b"y" * 300_000, 414),
}

ANSWERED: dict[str, tuple[bytes, int]] = {
    "99 headers": (get(*[b"X: y"] * 99), 200),
    "15 kB of headers": (get(*[b"X: " + b"y" * 1024] * 15), 200),
    "an address with a port": (b"GET /healthz HTTP/1.1\r\nHost: [::1]:8484\r\n\r\n", 200),
    "chunks": (chunked(b"2\r\n{}\r\n0\r\n\r\n"), 401),
    "chunks with an extension and a trailer": (chunked(b"2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n"), 401),
    "line ends before a request": (b"\r\n\r\n" + get(), 200),
}
