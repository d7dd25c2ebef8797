"""TLS in front of a server that has none: tls.py PORT CERTIFICATE KEY UPSTREAM_PORT, all on 127.0.0.1."""

import socket
import ssl
import sys
import threading


def pump(source, target):
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def serve(plain, context, upstream):
    try:
        client = context.wrap_socket(plain, server_side=True)
        server = socket.create_connection(("127.0.0.1", upstream))
    except OSError:
        plain.close()
        return
    back = threading.Thread(target=pump, args=(server, client), daemon=True)
    back.start()
    pump(client, server)
    back.join()
    client.close()
    server.close()


def main(port, certificate, key, upstream):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=128)
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=serve, args=(plain, context, int(upstream)), daemon=True).start()


main(*sys.argv[1:])
