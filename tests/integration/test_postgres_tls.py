"""TLS to a real PostgreSQL with a certificate of one's own, and passwords from the environment and a file."""

import asyncio
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aicp.errors import SettingsError
from aicp.runtime import databases
from aicp.runtime.node import Node
from tests.integration.postgres_kit import opened, run
from tests.postgres_server import PostgresServer, ask_now, postgres_server

PASSWORD = "s3cret:pass"
KEY_FILE_MODE = 0o600
TLS_WANTED = struct.pack("!ii", 8, 80877103)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """Somebody who signs certificates."""

    def __init__(self, name: str) -> None:
        self._name = named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    def server_certificate(self, host: str) -> tuple[bytes, bytes]:
        """A certificate for a host and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._signed(named(host), key, names), private

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("an authority of one's own")


class TlsDoor:
    """Speaks TLS as PostgreSQL does, and nothing else, to a server behind it: builds from wheels have none.

    Args:
        target: Port of the server.
        context: Has the certificate.
    """

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(TLS_WANTED)) == TLS_WANTED
            writer.write(b"S")
            await writer.start_tls(self._context)
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_pass(reader, to_writer), _pass(to_reader, writer))
        writer.close()


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One without TLS, that asks `guarded` for a password."""
    with postgres_server() as started:
        ask_now(started.url(), f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        started.let_in("host all guarded 127.0.0.1/32 scram-sha-256")
        yield started


@pytest.fixture(scope="module")
def door(authority: Authority, server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port where that server is `localhost`, and speaks TLS."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(b"".join(authority.server_certificate("localhost")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="TLS door")
    thread.start()
    starting = asyncio.start_server(TlsDoor(server.port, context).serve, "127.0.0.1", 0)
    listening = asyncio.run_coroutine_threadsafe(starting, loop).result()
    yield listening.sockets[0].getsockname()[1]
    asyncio.run_coroutine_threadsafe(_close(listening), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _close(listening: asyncio.Server) -> None:
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def root(authority: Authority, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.certificate)
    return file


def url_of(port: int, parameters: str, *, host: str = "localhost", user: str = "postgres") -> str:
    return f"postgresql://{user}@{host}:{port}/postgres?{parameters}"


def told_of(url: str) -> str:
    """What `aicp db check` and a node both say of a database that cannot be used: one sentence."""
    with pytest.raises(SettingsError) as by_check:
        databases.check(url)

    async def start() -> None:
        async with Node(database=url):
            pass

    with pytest.raises(SettingsError) as by_node:
        run(start())
    assert str(by_check.value) == str(by_node.value)
    assert "\n" not in str(by_check.value)
    return str(by_check.value)


def test_server_that_shows_the_right_certificate_is_used_encrypted(door: int, root: Path) -> None:
    async def main() -> None:
        async with opened(url_of(door, f"sslmode=verify-full&sslrootcert={root}")) as journal:
            assert journal._database.replicas.is_sure

    run(main())


def test_certificate_of_another_authority_is_refused(door: int, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("somebody else").certificate)
    told = told_of(url_of(door, f"sslmode=verify-full&sslrootcert={other}"))
    assert "the server's certificate is not trusted: check sslrootcert of the URL" in told


def test_certificate_of_another_host_is_refused(door: int, root: Path) -> None:
    told = told_of(url_of(door, f"sslmode=verify-full&sslrootcert={root}", host="127.0.0.1"))
    assert "the server's certificate is for another host: name the server in the URL as its certificate does" in told


def test_root_certificate_that_is_not_there_is_told(door: int, tmp_path: Path) -> None:
    told = told_of(url_of(door, f"sslmode=verify-full&sslrootcert={tmp_path / 'nowhere.pem'}"))
    assert "sslrootcert, which cannot be read" in told
    assert "nowhere.pem" in told


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_server_without_tls_is_refused_by_whoever_asks_for_it(server: PostgresServer, root: Path, mode: str) -> None:
    told = told_of(url_of(server.port, f"sslmode={mode}&sslrootcert={root}"))
    assert "the server offers no TLS: switch it on there, or ask for none with sslmode=disable" in told


def test_password_may_come_from_the_environment_or_a_file(
    door: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(door, f"sslmode=verify-full&sslrootcert={root}", user="guarded")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"localhost:{door}:*:guarded:{PASSWORD}\n")
    passwords.chmod(KEY_FILE_MODE)
    for variable, value in (("PGPASSWORD", PASSWORD), ("PGPASSFILE", str(passwords))):
        with monkeypatch.context() as environment:
            environment.setenv(variable, value)
            databases.upgrade(url)
            assert not databases.check(url).problems
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    assert "the password is wrong, or the server wants one" in told_of(url)
