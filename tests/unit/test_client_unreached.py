"""Why a server cannot be reached, in words for people."""

import socket
import ssl
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected

import pytest

from aicp.client.unreached import reason_of

HTTPS, HTTP = "https://aicp.example:8420", "http://aicp.example:8420"


def distrust(code: int, told: str = "") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {told} (_ssl.c:1006)")
    error.verify_code, error.verify_message = code, told
    return error


def broken_handshake(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "url", "told", "advice"),
    [
        (distrust(18), HTTPS, "signed by nobody whom this machine trusts", "SSL_CERT_FILE"),
        (distrust(20), HTTPS, "signed by nobody whom this machine trusts", "SSL_CERT_FILE"),
        (distrust(62), HTTPS, "not for the host 'aicp.example'", "the host that the certificate is for"),
        (distrust(10), HTTPS, "has expired", "clock"),
        (distrust(9), HTTPS, "is not valid yet", "clock"),
        (distrust(23, "certificate revoked"), HTTPS, "cannot be trusted: certificate revoked", "another one"),
        (broken_handshake("WRONG_VERSION_NUMBER"), HTTPS, "does not speak TLS", "write http://"),
        (broken_handshake("TLSV1_ALERT_PROTOCOL_VERSION"), HTTPS, "tlsv1 alert protocol version", "TLS settings"),
        (ConnectionResetError(), HTTP, "hung up", "write https://"),
        (RemoteDisconnected(""), HTTP, "hung up", "write https://"),
        (ConnectionResetError(), HTTPS, "hung up", "write http://"),
        (BadStatusLine("SSH-2.0"), HTTP, "does not speak HTTP", "write https://"),
        (IncompleteRead(b""), HTTP, "broke off", ""),
        (socket.gaierror(-2, "Name or service not known"), HTTP, "no host is known as 'aicp.example'", "network"),
        (UnicodeError("label too long"), HTTP, "no host is known as 'aicp.example'", "network"),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9)"), HTTP, "connection refused", ""),
        (OSError("odd"), HTTP, "odd", ""),
    ],
)  # fmt: skip
def test_reason_is_told_in_plain_words_with_what_to_do(error: Exception, url: str, told: str, advice: str) -> None:
    reason = reason_of(error, url)
    assert told in reason.told
    assert advice in reason.advice
    assert bool(reason.advice) is bool(advice)
    assert "_ssl.c" not in reason.told
