"""TLS: the contexts of servers and clients, made in one place, and what a handshake that failed comes to.

Owns     reading certificates, keys and authorities, also anew; the choice among certificates by the name that a
         client asks for.
Never    does a handshake: handlersocket.py, pooled.py and dialing.py do.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from .transport import DONT_WAIT, shutdown

__all__ = [
    "Certificate",
    "ServerSSLContext",
    "check_context",
    "client_context",
    "end_refused",
    "failure",
    "peer_certificate",
    "renewed",
    "wrap",
]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Password = str | bytes | bytearray | Callable[[], str | bytes | bytearray]

PLAIN_HTTP = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")  # OpenSSL's reasons for what is no TLS at all
HINT = "400 Bad Request: this port speaks TLS: use https:// or wss://\n"
ANSWER = (
    "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(HINT)}\r\n\r\n{HINT}"
).encode()


class Certificate(NamedTuple):
    """A certificate chain and its private key: the arguments of ssl.SSLContext.load_cert_chain.

    Files are PEM; without ``keyfile`` the key is in ``certfile`` too. ``password`` is for an encrypted key; a function
    is asked for it each time the files are read.
    """

    certfile: Path
    keyfile: Path | None = None
    password: Password | None = None


class ServerSSLContext(ssl.SSLContext):
    """A TLS context for a server that knows its files, so that the server's ``reload_certificate`` can read them anew.

    ``certfile``, ``keyfile`` and ``password`` are as in Certificate.

    ``names`` maps host names to the Certificate for clients that ask for them (RFC 6066, section 3): ``example.org``,
    or ``*.example.org`` for any one label there. All other clients get the first certificate; with ``strict_names``
    those that ask for a name that is not in the table are refused, and only those that ask for none get it.

    ``client_ca`` is a file of authorities (PEM) whose certificates clients have to present; with
    ``client_optional`` they may. ``peer_certificate`` of a handler then tells who is there.

    TLS 1.2 and later, without compression and renegotiation. Raises OSError (ssl.SSLError) for a file that is missing
    or not what it should be, and names it; TypeError and ValueError for other mistakes.
    """

    def __new__(cls, *args: object, **kwargs: object) -> ServerSSLContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(
        self,
        certfile: Path,
        keyfile: Path | None = None,
        password: Password | None = None,
        *,
        names: Mapping[str, Certificate] | None = None,
        strict_names: bool = False,
        client_ca: Path | None = None,
        client_optional: bool = False,
    ) -> None:
        if client_optional and client_ca is None:
            raise ValueError("client_optional needs client_ca: whose certificates clients may present")
        if strict_names and not names:
            raise ValueError("strict_names needs names: those that clients may ask for")
        self._certificate = Certificate(certfile, keyfile, password)
        self._names = {_host(name): _checked(name, certificate) for name, certificate in (names or {}).items()}
        self._strict_names = strict_names
        self._client_ca = client_ca
        self._client_optional = client_optional
        self._read()

    def configure(self, context: ssl.SSLContext) -> None:
        """To be overridden: set what else a context needs (ciphers, say).

        Called for this one and for that of each of ``names``, and again when the files are read anew.
        """

    def renewed(self) -> ServerSSLContext:
        """Return another context made of the same files as they are now. Raises as the constructor does."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        other._read()
        return other

    def _read(self) -> None:
        self._prepare(self, self._certificate)
        if not self._names:
            return
        contexts = {}
        for name, certificate in self._names.items():
            contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._prepare(contexts[name], certificate)
        self.sni_callback = partial(_choose, contexts, self._strict_names)

    def _prepare(self, context: ssl.SSLContext, certificate: Certificate) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION  # RFC 7457, 2.6; RFC 9325, 3.5
        context.set_alpn_protocols(["http/1.1"])
        _load_chain(context, certificate)
        if self._client_ca is not None:
            _load_authorities(context, self._client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL if self._client_optional else ssl.CERT_REQUIRED
        self.configure(context)


def check_context(context: object) -> None:
    """Raise TypeError for what is neither a context nor None."""
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext or None, not {type(context).__name__}")


def renewed(context: ssl.SSLContext | None) -> ServerSSLContext:
    """Return what a server uses from now on instead of this context, its files read anew.

    Raises OSError where one is not what it should be, and RuntimeError for a context that has no files to read.
    """
    if isinstance(context, ServerSSLContext):
        return context.renewed()
    if context is None:
        raise RuntimeError("this server has no ssl_context: there is no certificate to read anew")
    raise RuntimeError(
        "this server's ssl_context was made by hand and does not know its files: "
        "make it with ServerSSLContext, or set the server's ssl_context to a new one"
    )


def client_context(*, verify: bool = True) -> ssl.SSLContext:
    """Return a context for a client, which verifies the server's certificate and name unless told otherwise."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def wrap(context: ssl.SSLContext, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
    """Return the socket wrapped, its handshake still to be done; ``options`` are those of ``wrap_socket``.

    That takes the descriptor over before it looks whether the peer is there, and where the peer has left leaves the
    new socket to the garbage collector: here it is closed. Raises OSError.
    """
    try:
        return context.wrap_socket(sock, do_handshake_on_connect=False, **options)
    except OSError as error:
        traceback = error.__traceback__
        while traceback is not None:  # nothing else knows it
            half_made = traceback.tb_frame.f_locals.get("self")
            if isinstance(half_made, ssl.SSLSocket):
                half_made.close()
            traceback = traceback.tb_next
        raise


# What has come of a handshake


def peer_certificate(sock: socket.socket) -> Mapping[str, Any] | None:
    """Return the peer's certificate if there is one that was verified; for a socket that nobody else uses yet."""
    if not isinstance(sock, ssl.SSLSocket):
        return None
    try:
        return sock.getpeercert() or None
    except (OSError, ValueError):  # the stream has failed, if only since: there is nobody to ask
        return None


def failure(error: OSError) -> str:
    """Return what a log says of a handshake that ended with this error."""
    reason = getattr(error, "reason", None)
    if reason in PLAIN_HTTP:
        return "plain HTTP"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not trusted: {error.verify_message}"
    return reason or error.strerror or str(error)


def end_refused(sock: socket.socket, error: OSError) -> bool:
    """End our half of a stream whose handshake ended with this error; answer plain HTTP in kind.

    Never blocks, never raises. Return whether the client is there to read OpenSSL's alert or our answer: then
    what it has sent is to be read before the socket is closed, or the reset overtakes them (RFC 9112, section 9.6).
    """
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return False
    if sock.fileno() < 0:  # reset while it was being wrapped
        return False
    if getattr(error, "reason", None) in PLAIN_HTTP:
        with suppress(OSError):
            socket.socket.send(sock, ANSWER, DONT_WAIT)
    shutdown(sock, socket.SHUT_WR)
    return True


# The files


def _load_chain(context: ssl.SSLContext, certificate: Certificate) -> None:
    certfile, keyfile, password = certificate
    for path in (certfile, keyfile):  # load_cert_chain does not say which of the two it misses
        if path is not None:
            _check_readable(path)
    files = " and ".join(os.fsdecode(path) for path in (certfile, keyfile) if path is not None)
    try:
        context.load_cert_chain(certfile, keyfile, _no_password if password is None else password)
    except ssl.SSLError as error:
        reason = getattr(error, "reason", None)  # none where it is _no_password's
        if reason == "KEY_VALUES_MISMATCH":
            raise _bad(f"the private key is not that of the certificate: {files}") from None
        raise _bad(f"no certificate with its key in {files}: {reason or error}") from None


def _no_password() -> str:
    raise _bad("the private key is encrypted, and no password was given")  # OpenSSL would ask at the terminal


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise _bad(f"no certificate of an authority in {os.fsdecode(path)}: {error.reason or error}") from None


def _check_readable(path: Path) -> None:
    with open(path, "rb"):
        pass


def _bad(message: str) -> ssl.SSLError:
    return ssl.SSLError(ssl.SSL_ERROR_SSL, message)


# Names


def _choose(
    contexts: Mapping[str, ssl.SSLContext], strict: bool, sock: ssl.SSLObject, name: str | None, _: object
) -> int | None:
    """What OpenSSL calls with the name that a client asks for: use its context. Must not raise."""
    if name is None:
        return None
    name = name.lower()
    context = contexts.get(name) or contexts.get("*." + name.partition(".")[2])  # RFC 9525, 6.3: one label
    if context is not None:
        sock.context = context
    elif strict:
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    return None


def _host(name: str) -> str:
    """Return a host name of the table as clients send it (RFC 6066, section 3): in ASCII, here in lower case."""
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, not {type(name).__name__}")
    wildcard, host = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    try:
        ascii_name = host.encode("idna").decode().lower()
    except UnicodeError as error:
        raise ValueError(f"{name!r} is not a valid host name: {error}") from None
    if not ascii_name or ascii_name.endswith(".") or set(ascii_name) & set("*:/ "):
        raise ValueError(f"{name!r} is not a host name: it looks like example.org or *.example.org")
    return wildcard + ascii_name


def _checked(name: str, certificate: object) -> Certificate:
    if not isinstance(certificate, Certificate):
        raise TypeError(f"for {name} there must be a Certificate(certfile, keyfile), not {certificate!r}")
    return certificate
