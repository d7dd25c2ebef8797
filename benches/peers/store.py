"""The S3 server of a run, reached through TLS as pgBackRest demands, with its requests counted; near, or 50 ms away.

nginx ends TLS, passes on to the server that scripts/object-stores.sh started, and writes a line for each request. The distance
is a relay of bytes in front of nginx that holds everything back for half of it in either direction.
"""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

DISTANCE_SECONDS = 0.050

NGINX = """
daemon off;
pid {room}/nginx.pid;
error_log {room}/nginx.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    log_format counted '$request_length $bytes_sent $request_method $status';
    access_log {room}/requests.log counted;
    client_max_body_size 0;
    client_body_temp_path {room}/bodies;
    proxy_temp_path {room}/bodies;
    fastcgi_temp_path {room}/bodies;
    uwsgi_temp_path {room}/bodies;
    scgi_temp_path {room}/bodies;
    keepalive_requests 100000;
    upstream store {{ server {upstream}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {room}/server.pem;
        ssl_certificate_key {room}/server.key;
        location / {{
            proxy_pass http://store;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _certificate(room):
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=room, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=benchmark authority",
            "-keyout", "ca.key", "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (room / "server.ext").write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "server.ext", "-out", "server.pem")


async def _relay(port, target):
    async def one_way(reader, writer):
        # Each piece leaves when its time has come, and pieces do not wait for each other: a long line, not a narrow one.
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue(maxsize=256)

        async def deliver():
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0, due - loop.time()))
                if piece is None:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        try:
            while piece := await reader.read(1 << 18):
                await pieces.put((loop.time() + DISTANCE_SECONDS / 2, piece))
        except ConnectionError:
            pass
        await pieces.put((loop.time() + DISTANCE_SECONDS / 2, None))
        try:
            await delivery
        except (ConnectionError, OSError):
            pass

    async def serve(reader, writer):
        try:
            # The handshake of TCP takes its time, too.
            await asyncio.sleep(DISTANCE_SECONDS)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=1 << 20)
        except OSError:
            writer.close()
            return
        await asyncio.gather(one_way(reader, far_writer), one_way(far_reader, writer))
        far_writer.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20)
    async with server:
        await server.serve_forever()


def _run_relay(port, target):
    asyncio.run(_relay(port, target))


class Store:
    """A bucket, near or far; `count()` for requests and bytes that reached it."""

    def __init__(self, room):
        self.room = Path(room)
        (self.room / "bodies").mkdir(parents=True)
        _certificate(self.room)
        endpoint = os.environ["WALWARD_TEST_STORE_ENDPOINT"]
        self.bucket = os.environ["WALWARD_TEST_STORE_URL"].removeprefix("s3://")
        self.key = os.environ["WALWARD_TEST_STORE_KEY"]
        self.secret = os.environ["WALWARD_TEST_STORE_SECRET"]
        self.region = os.environ["WALWARD_TEST_STORE_REGION"]
        self.direct = endpoint
        self.ca = self.room / "ca.pem"
        self.near, self.far = free_port(), free_port()
        conf = NGINX.format(room=self.room, upstream=endpoint.removeprefix("http://"), port=self.near)
        (self.room / "nginx.conf").write_text(conf)
        self.nginx = subprocess.Popen(["nginx", "-e", self.room / "nginx.log", "-c", self.room / "nginx.conf"],
                                      stdin=subprocess.DEVNULL)
        self.relay = multiprocessing.Process(target=_run_relay, args=(self.far, self.near), daemon=True)
        self.relay.start()
        time.sleep(1)
        if self.nginx.poll() is not None:
            sys.exit(f"error: nginx ended: {(self.room / 'nginx.log').read_text()}")

    def port(self, far):
        return self.far if far else self.near

    def count(self):
        """Requests, and bytes of them, so far."""
        requests = sent = 0
        with open(self.room / "requests.log") as log:
            for line in log:
                requests += 1
                sent += int(line.split()[0])
        return requests, sent

    def empty(self):
        """Removes every object, at the server itself."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.direct, aws_access_key_id=self.key, region_name=self.region,
                              aws_secret_access_key=self.secret)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
            if keys:
                client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})

    def stop(self):
        self.relay.terminate()
        self.nginx.terminate()
        self.nginx.wait()
