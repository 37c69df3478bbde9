"""An HTTP server that answers GET and HEAD of the objects of a bucket, with ranges, as S3 does.

    python -m benchmarks.cache.server FOLDER --width bf16 --records 2000 --port 9000

Nothing of them is stored: bytes come from the content's file by ``sendfile``. Signatures are not
looked at. ``/stats`` says how many bytes were sent. It runs until its standard input closes.
"""

import argparse
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any, Final

from benchmarks.cache.content import BUCKET, Width, made
from benchmarks.cache.objects import Piece, mds, ours, size_of, tars, zipped

_STATS: Final = "/stats"


class Bucket:
    """Objects by path, and what was sent of them."""

    def __init__(self, folder: Path, width: Width, records: int) -> None:
        content = made(folder, width)
        self.file = os.open(content.file, os.O_RDONLY)
        makers = (tars(content, records), mds(content, records), zipped(content, records))
        objects = {**ours(content, records).objects, **dict(chain(*makers))}
        self.objects = {f"/{BUCKET}/{key}": pieces for key, pieces in objects.items()}
        self._lock = threading.Lock()
        self.sent_bytes = 0

    def count(self, sent_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += sent_bytes


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, bucket: Bucket, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.bucket = bucket

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that is killed resets its connections


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        if self.path == _STATS:
            self._send_small(json.dumps({"sent_bytes": self.server.bucket.sent_bytes}).encode())
        else:
            self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        pieces = self.server.bucket.objects.get(self.path.partition("?")[0])
        if pieces is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        total = size_of(pieces)
        asked = self.headers.get("Range")
        start, end = 0, total
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(total, int(last) + 1 if last else total)
        self.send_response(200 if asked is None else 206)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", '"bench"')
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        if asked is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        self.end_headers()
        if with_body:
            self._send_range(pieces, start, end)

    def _send_small(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_range(self, pieces: tuple[Piece, ...], start: int, end: int) -> None:
        for piece in pieces:
            length = size_of((piece,))
            first, last = max(0, start), min(length, end)
            if first < last:
                self._send_piece(piece, first, last)
            start, end = start - length, end - length

    def _send_piece(self, piece: Piece, first: int, last: int) -> None:
        bucket = self.server.bucket
        if isinstance(piece, bytes):
            self.wfile.write(piece[first:last])
            bucket.count(last - first)
            return
        offset, left = piece.offset_bytes + first, last - first
        while left:
            sent = os.sendfile(self.connection.fileno(), bucket.file, offset, left)
            offset, left = offset + sent, left - sent
            bucket.count(sent)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", choices=("bf16", "8bit"), required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    server = _Server(Bucket(args.folder, args.width, args.records), args.port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
