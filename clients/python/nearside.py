"""Asks a Nearside fleet where a user should download a file from.

One file, no dependencies, Python 3.9 or later. A site's backend asks before it renders a link:

    from nearside import Nearside

    cdn = Nearside(
        controller="home.example.net:9443", ca="ca.pem", token="nst_...",
        name="www.example.org", pop_url="https://{pop}.dl.example.org", source_url="https://origin.example.org",
    )
    link = cdn.locate("198.51.100.7", "/files/setup.exe").url

`locate` finds the PoP that is nearest to the user and healthy, and whether it holds the file. If it does, the URL is
the PoP's; if not, the PoP is told to fetch it and the URL is the source's. Answers are kept for `keep` seconds by the
user's network. Whatever goes wrong (home is off, slow, refuses), the URL is the source's: `locate` never raises and
takes no longer than `timeout` seconds. After a failure nobody is asked for `pause` seconds, so that a dead controller
costs one timeout and not one per page. Safe to share between threads.
"""

from __future__ import annotations

import collections
import dataclasses
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time
import urllib.parse

__all__ = ["Located", "Nearside"]

# The name in the controller's certificate, wherever it listens.
_SERVER_NAME = "controller.node.nearside.internal"
# Answers kept; some hundred bytes each.
_KEPT_MAX = 10_000
# Largest answer read.
_ANSWER_BYTES_MAX = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Located:
    """Where to download from."""

    #: The URL to give to the user.
    url: str
    #: `cached`, `partial`, `absent`, `unknown` at the PoP, or `failed` where nobody could be asked.
    state: str
    #: The PoP nearest to the user; None where nobody could be asked.
    pop: str | None = None
    #: Why the URL is the source's, if something went wrong.
    error: str | None = None


class _Connection(http.client.HTTPSConnection):
    """To an address, checking the controller's own name."""

    def __init__(self, host, port, deadline, context):
        super().__init__(host, port, timeout=max(deadline - time.monotonic(), 0.001), context=context)
        self._deadline = deadline
        self._tls = context

    def connect(self):
        plain = socket.create_connection((self.host, self.port), self.timeout)
        plain.settimeout(max(self._deadline - time.monotonic(), 0.001))
        self.sock = self._tls.wrap_socket(plain, server_hostname=_SERVER_NAME)


class Nearside:
    """A fleet, as a site's backend sees it.

    controller: HOST:PORT of the controller's API. ca: file with the fleet's CA. token: a deployer's token; or
    certificate: a pair of files (chain, key) of an identity of the fleet. name: a name that the fleet's DNS answers with
    PoPs. pop_url: what comes before the path at a PoP, `{pop}` stands for its name. source_url: the same at the source.
    keep: seconds an answer is kept. timeout: seconds for one question, all in all. pause: seconds without questions
    after a failure. use_absent: True gives the PoP's URL even where the file is not there yet (the PoP fetches it while it
    serves it).
    """

    def __init__(
        self,
        controller,
        ca,
        name,
        pop_url,
        source_url,
        token=None,
        certificate=None,
        keep=30.0,
        timeout=1.0,
        pause=5.0,
        use_absent=False,
    ):
        host, _, port = controller.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            self._context.load_cert_chain(*certificate)
        self._headers = {"Host": _SERVER_NAME}
        if token is not None:
            self._headers["Authorization"] = "Bearer " + token
        self._name = name
        self._pop_url = pop_url.rstrip("/")
        self._source_url = source_url.rstrip("/")
        self._keep, self._timeout, self._pause = keep, timeout, pause
        self._use_absent = use_absent
        self._lock = threading.Lock()
        self._kept = collections.OrderedDict()
        self._quiet_until = 0.0

    def locate(self, client, path):
        """Where the user at address `client` should download `path` from. Never raises."""
        source = self._source_url + path
        try:
            key = (_network(client), path)
        except ValueError as error:
            return Located(source, "failed", None, str(error))
        now = time.monotonic()
        with self._lock:
            known = self._kept.get(key)
            if known is not None and known[0] > now:
                return known[1]
            if self._quiet_until > now:
                return Located(source, "failed", None, "not asked: the last question failed")
        try:
            located = self._ask(client, path, source)
        except Exception as error:  # Whatever it is, the user gets a link.
            with self._lock:
                self._quiet_until = time.monotonic() + self._pause
            return Located(source, "failed", None, "%s: %s" % (type(error).__name__, error))
        # What is being fetched may be there soon; what is cached stays for a while.
        keep = self._keep if located.state == "cached" else min(self._keep, 2.0)
        with self._lock:
            self._kept[key] = (time.monotonic() + keep, located)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        return located

    def _ask(self, client, path, source):
        query = {"name": self._name, "client": client, "url": self._pop_url + path, "fetch": "1"}
        deadline = time.monotonic() + self._timeout
        connection = _Connection(*self._address, deadline, self._context)
        try:
            connection.request("GET", "/v1/route?" + urllib.parse.urlencode(query), headers=self._headers)
            connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            response = connection.getresponse()
            body = response.read(_ANSWER_BYTES_MAX)
        finally:
            connection.close()
        answer = json.loads(body)
        if response.status != 200:
            raise RuntimeError("%d %s" % (response.status, answer.get("error", "")))
        state = (answer.get("cached") or {}).get("state", "unknown")
        at_pop = state == "cached" or (self._use_absent and state in ("absent", "partial"))
        return Located(answer["url"] if at_pop else source, state, answer["pop"])


def _network(client):
    """The part of an address by which users are told apart: /24, or /56 for IPv6."""
    address = ipaddress.ip_address(client)
    address = getattr(address, "ipv4_mapped", None) or address
    return ipaddress.ip_network((address, 24 if address.version == 4 else 56), strict=False)
