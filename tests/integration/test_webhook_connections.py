"""Events go to the address that was checked, over TLS that names the host, and nowhere else."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from services.domain.ids import new_id
from services.domain.webhooks import new_signing_secret
from services.results.webhooks import sending
from services.store.webhook_work import Answer, DueDelivery
from tests.support.ports import free_port
from tests.support.receiver import Receiver
from trainer_core.web.public_addresses import Network

SECRET = new_signing_secret()
CHECKED, OTHER = "127.0.0.2", "127.0.0.1"


def send(url: str, *allowed: str, timeout_s: float = 5) -> Answer:
    delivery = DueDelivery(
        delivery_id=new_id("whd"),
        tenant_id=new_id("ten"),
        webhook_id=new_id("wh"),
        url=url,
        event_id=new_id("evt"),
        payload='{"type":"webhook.test"}',
        secret_id="",
        old_secret_id=None,
        attempts=1,
        fence=1,
        is_failing=False,
        claimed_at=datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=5))),
    )
    networks: list[Network] = [ipaddress.ip_network(each) for each in allowed]
    return sending.send(delivery, [SecretStr(SECRET)], networks, timeout_s=timeout_s)


def test_a_name_that_changes_wins_nothing(resolves: Callable[..., list[str]]) -> None:
    with Receiver(CHECKED) as checked, Receiver(OTHER) as other:
        asked = resolves([CHECKED], [OTHER])
        answer = send(checked.url(host="moving.example"), f"{CHECKED}/32")
        assert (answer.status_code, len(checked.received)) == (200, 1)
        assert asked == ["moving.example"]
        assert checked.received[0].verified(SECRET) == {"type": "webhook.test"}
        assert checked.received[0].headers["Host"] == f"moving.example:{checked.port}"

        answer = send(other.url(host="moving.example"), f"{CHECKED}/32")
        assert answer.error == "address_refused"
        assert other.received == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "0.0.0.0"],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_name_of_an_internal_address_is_refused(
    resolves: Callable[..., list[str]], scheme: str, address: str
) -> None:
    resolves([address])
    assert send(f"{scheme}://inside.example/").error == "address_refused"


def test_of_several_addresses_those_that_may_be_reached_are_tried(
    resolves: Callable[..., list[str]],
) -> None:
    with Receiver(CHECKED) as checked:
        resolves(["10.0.0.1", "127.0.0.3", CHECKED])
        answer = send(checked.url(host="several.example"), "127.0.0.2/31")
        assert (answer.status_code, len(checked.received)) == (200, 1)


def test_http_goes_to_the_operators_networks_only(resolves: Callable[..., list[str]]) -> None:
    resolves(["93.184.216.34"])
    assert send("http://public.example/", "10.0.0.0/8").error == "address_refused"


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
def test_other_ways_to_write_an_internal_address_are_refused(host: str) -> None:
    with Receiver() as receiver:
        answer = send(f"https://{host}:{receiver.port}/")
        assert answer.error in ("address_refused", "name_not_found")
        assert receiver.received == []


def test_a_name_that_is_none() -> None:
    assert send(f"https://{'a' * 64}.example/").error == "name_not_found"


def test_something_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(5)

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(10)
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert send(f"http://127.0.0.1:{port}/", "127.0.0.0/8").error == "no_answer"
        thread.join()
    assert send(f"http://127.0.0.1:{free_port()}/", "127.0.0.0/8").error == "not_connected"


@pytest.fixture
def certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ssl.SSLContext]]:
    """A server's TLS with a certificate for this name, which the sender trusts."""
    key = ec.generate_private_key(ec.SECP256R1())

    def certify(name: str) -> ssl.SSLContext:
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(named)
            .issuer_name(named)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        chain, private = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(chain))
        sending.tls.cache_clear()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, private)
        return context

    yield certify
    sending.tls.cache_clear()


def test_the_certificate_has_to_be_for_the_name(
    certified: Callable[[str], ssl.SSLContext], resolves: Callable[..., list[str]]
) -> None:
    resolves([CHECKED])
    with Receiver(CHECKED, tls=certified("hooks.example")) as receiver:
        answer = send(receiver.url(host="hooks.example"), f"{CHECKED}/32")
        assert answer.status_code == 200
        assert receiver.received[0].verified(SECRET) == {"type": "webhook.test"}
        assert send(receiver.url(host="other.example"), f"{CHECKED}/32").error == "tls_failed"
        assert len(receiver.received) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(
    certified: Callable[[str], ssl.SSLContext],
    resolves: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves([CHECKED])
    context = certified("hooks.example")
    monkeypatch.delenv("SSL_CERT_FILE")
    sending.tls.cache_clear()
    with Receiver(CHECKED, tls=context) as receiver:
        assert send(receiver.url(host="hooks.example"), f"{CHECKED}/32").error == "tls_failed"
        assert receiver.received == []
