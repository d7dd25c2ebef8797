"""One signed request to the store that WALWARD_TEST_STORE_* names: request.py METHOD PATH [BODY]. PATH may have a query.

Tries again for a minute (a store that has just started may refuse), then fails with the store's answer.
"""

import base64
import hashlib
import hmac
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

store = {name: os.environ["WALWARD_TEST_STORE_" + name] for name in ("URL", "ENDPOINT", "REGION", "KEY", "SECRET")}


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signed_s3(method, url, body):
    """AWS signature, version 4."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    content = hashlib.sha256(body).hexdigest()
    # The type has to be signed (Ceph insists), and without one Python would add its own.
    headers = {
        "content-type": "application/octet-stream",
        "host": url.netloc,
        "x-amz-content-sha256": content,
        "x-amz-date": now,
    }
    query = "&".join(sorted(part if "=" in part else part + "=" for part in url.query.split("&") if part))
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, url.path, query, lines, ";".join(headers), content])
    scope = f"{now[:8]}/{store['REGION']}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = mac(("AWS4" + store["SECRET"]).encode(), now[:8])
    for part in scope.split("/")[1:]:
        key = mac(key, part)
    signature = mac(key, "\n".join(["AWS4-HMAC-SHA256", now, scope, digest])).hex()
    credential = f"Credential={store['KEY']}/{scope}, SignedHeaders={';'.join(headers)}, Signature={signature}"
    return {**headers, "authorization": "AWS4-HMAC-SHA256 " + credential}


def signed_azure(method, url, _body):
    """Azure's shared key; the emulator's paths begin with the account."""
    headers = {
        "content-type": "application/octet-stream",
        "x-ms-date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        "x-ms-version": "2021-08-06",
    }
    query = "".join("\n" + part.replace("=", ":") for part in sorted(url.query.split("&")))
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items() if name.startswith("x-ms-"))
    text = method + "\n" * 5 + headers["content-type"] + "\n" * 7 + lines + f"/{store['KEY']}{url.path}" + query
    signature = base64.b64encode(mac(base64.b64decode(store["SECRET"]), text)).decode()
    return {**headers, "authorization": f"SharedKey {store['KEY']}:{signature}"}


def main(method, path, body=""):
    body = body.encode()
    url = urllib.parse.urlparse(store["ENDPOINT"] + path)
    sign = signed_azure if store["URL"].startswith("az:") else signed_s3
    give_up = time.monotonic() + 60
    while True:
        request = urllib.request.Request(url.geturl(), body or None, sign(method, url, body), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError) as error:
            said = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
            if time.monotonic() > give_up:
                sys.exit(f"{method} {url.geturl()}: {error} {said}")
        time.sleep(0.5)


main(*sys.argv[1:])
