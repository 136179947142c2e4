"""`aicp serve` with HTTPS: a certificate of one's own authority, commands that trust it, and what cannot be used."""

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import aicp
from aicp.errors import SettingsError
from aicp.runtime.settings import Tls, server_settings
from tests.e2e.cli_kit import line_of

BOUND_S = 60.0


def make_certificate(directory: Path, name: str = "localhost", password: bytes | None = None) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    sealing = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    kept = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing)
    certificate_file, key_file = directory / f"{name}.pem", directory / f"{name}.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(kept)
    key_file.chmod(0o600)
    return certificate_file, key_file


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(Path(aicp.__file__).parent.parent), "AICP_DATA_DIR": str(data_dir), **more,
    }  # fmt: skip


@contextmanager
def serving(tmp_path: Path, *arguments: str) -> Iterator[tuple[str, str]]:
    """A server with HTTPS on any free port; gives its URL and its admin key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aicp", "serve", "--port", "0", *arguments], env=environment(tmp_path / "data"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        told = line_of(process.stderr)
        assert told.startswith("AICP serves https://"), told
        yield told.split()[2].rstrip(";"), (tmp_path / "data" / "admin.key").read_text().strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
    finally:
        process.kill()
        process.communicate(timeout=BOUND_S)


def told_by(*arguments: str, data_dir: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "aicp", *arguments], env=environment(data_dir, **more), capture_output=True, text=True,
        timeout=BOUND_S, check=False,
    )  # fmt: skip


def test_server_with_a_certificate_answers_who_trusts_it_and_nobody_in_the_clear(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with serving(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key)) as (url, admin_key):
        port = url.rpartition(":")[2]
        own = f"https://localhost:{port}"
        asked = Request(f"{own}/api/info", headers={"Authorization": f"Bearer {admin_key}", "Origin": own})
        trusting = ssl.create_default_context(cafile=str(certificate))
        with urlopen(asked, timeout=BOUND_S, context=trusting) as answered:
            assert answered.status == 200
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urlopen(asked, timeout=BOUND_S)
        with pytest.raises((URLError, ConnectionError)):
            urlopen(f"http://127.0.0.1:{port}/livez", timeout=BOUND_S)
        shown = told_by(
            "agent", "list", "-o", "json", data_dir=tmp_path / "data", AICP_URL=own, SSL_CERT_FILE=str(certificate)
        )
        assert (shown.returncode, shown.stdout.strip()) == (0, "[]")


def test_what_hinders_a_secure_connection_is_told_with_what_to_do(tmp_path: Path) -> None:
    def told(url: str, **more: str) -> list[str]:
        shown = told_by("task", "list", data_dir=tmp_path / "data", AICP_URL=url, **more)
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (3, "", 1)
        finding = json.loads(told_by("doctor", "-o", "json", data_dir=tmp_path / "data", AICP_URL=url, **more).stdout)[
            0
        ]
        return [shown.stderr, f"{finding['told']}. {finding['advice'].capitalize()}."]

    certificate, key = make_certificate(tmp_path)
    with serving(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key)) as (url, _):
        port = url.rpartition(":")[2]
        for sentence in told(f"https://localhost:{port}"):
            assert "its certificate is signed by nobody whom this machine trusts. Set " in sentence
            assert "SSL_CERT_FILE".lower() in sentence.lower()
        for sentence in told(f"https://127.0.0.1:{port}", SSL_CERT_FILE=str(certificate)):
            assert "its certificate is not for the host '127.0.0.1'. Put the host" in sentence
        for sentence in told(f"http://127.0.0.1:{port}"):
            assert "it hung up without an answer. If it serves https, write https://".lower() in sentence.lower()


def test_server_that_serves_no_https_is_told_with_what_to_do(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aicp", "serve", "--port", "0"], env=environment(tmp_path / "data"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split()[2].rstrip(";").replace("http:", "https:")
        shown = told_by("task", "list", data_dir=tmp_path / "data", AICP_URL=url)
    finally:
        process.kill()
        process.communicate(timeout=BOUND_S)
    assert shown.stderr == (
        f"{url} cannot be reached: what answers there does not speak TLS. "
        "If it serves HTTP, write http:// in the URL (AICP_URL).\n"
    )


def test_other_machines_may_come_to_a_server_with_a_certificate(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    env = {"AICP_DATA_DIR": str(tmp_path)}
    with pytest.raises(SettingsError, match="--tls-cert and --tls-key"):
        server_settings(host="192.0.2.1", environ=env)
    chosen = server_settings(host="192.0.2.1", tls_certificate=certificate, tls_key=key, environ=env)
    assert chosen.tls == Tls(certificate, key)


def test_certificate_may_be_named_by_the_environment(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    half = told_by("serve", "--port", "0", data_dir=tmp_path / "data", AICP_TLS_CERT=str(certificate))
    assert (half.returncode, half.stderr) == (
        2, "HTTPS takes a certificate and its key: give both --tls-cert and --tls-key.\n",
    )  # fmt: skip


def test_what_cannot_be_served_with_is_one_sentence(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    _, other_key = make_certificate(tmp_path, "other")
    _, sealed_key = make_certificate(tmp_path, "sealed", b"secret")
    cases = [
        (certificate, other_key, "are no certificate with its key"),
        (key, key, "are no certificate with its key"),
        (tmp_path / "none.pem", key, "cannot be read: No such file or directory."),
        (certificate, sealed_key, "is encrypted: give one that is not"),
    ]
    for certificate_file, key_file, sentence in cases:
        told = told_by(
            "serve", "--port", "0", "--tls-cert", str(certificate_file), "--tls-key", str(key_file),
            data_dir=tmp_path / "data",
        )  # fmt: skip
        assert told.returncode == 2
        assert sentence in told.stderr
        assert told.stderr.count("\n") == 1
