"""Why a server cannot be reached, in words for people, and what they can do about it."""

import os
import socket
import ssl
from http.client import HTTPException, IncompleteRead
from urllib.parse import urlsplit

import msgspec

# What OpenSSL calls the ways in which a certificate leads to no authority that is trusted here.
_NO_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_ANOTHER_HOST = frozenset({62, 64})
_NOT_YET_VALID, _EXPIRED = 9, 10
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"})
_HUNG_UP = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class Reason(msgspec.Struct, frozen=True):
    """Why a server cannot be reached.

    Attributes:
        told: What is wrong; goes on a sentence.
        advice: What to do, a sentence that begins small and without its end; empty when starting the server may do.
    """

    told: str
    advice: str = ""


def reason_of(error: Exception, url: str) -> Reason:
    """Why the server at `url` cannot be reached, by what Python's own libraries raised."""
    if isinstance(error, ssl.SSLError):
        return _of_tls(error, url)
    if isinstance(error, socket.gaierror | UnicodeError):
        return Reason(f"no host is known as '{_host(url)}'", "look at the URL (AICP_URL), and at the network")
    if isinstance(error, _HUNG_UP):
        return Reason("it hung up without an answer", _other_scheme(url))
    if isinstance(error, IncompleteRead):
        return Reason("its answer broke off")
    if isinstance(error, HTTPException):
        return Reason("what answers there does not speak HTTP", _other_scheme(url))
    return Reason(_of_system(error))


def _of_tls(error: ssl.SSLError, url: str) -> Reason:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, url)
    if error.reason in _NO_TLS:
        return Reason("what answers there does not speak TLS", _other_scheme(url))
    why = (error.reason or "no reason given").replace("_", " ").lower()
    return Reason(f"no TLS connection came about: {why}", "look at the TLS settings of both sides")


def _of_certificate(error: ssl.SSLCertVerificationError, url: str) -> Reason:
    if error.verify_code in _NO_AUTHORITY:
        return Reason(
            "its certificate is signed by nobody whom this machine trusts",
            "set SSL_CERT_FILE to a PEM file with the certificate of who signed it; a self-signed one did so itself",
        )
    if error.verify_code in _ANOTHER_HOST:
        told = f"its certificate is not for the host '{_host(url)}'"
        return Reason(told, "put the host that the certificate is for in the URL (AICP_URL)")
    if error.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        told = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return Reason(f"its certificate {told}", "give the server another one, or set the clock here right")
    return Reason(f"its certificate cannot be trusted: {error.verify_message}", "give the server another one")


def _of_system(error: Exception) -> str:
    number = getattr(error, "errno", None) or 0
    return os.strerror(number).lower() if number > 0 else str(error) or type(error).__name__


def _other_scheme(url: str) -> str:
    other = "http" if url.startswith("https:") else "https"
    return f"if it serves {other.upper()}, write {other}:// in the URL (AICP_URL)"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
