import errno
import json
import os
import re
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click
import jwt
import pytest
import trio
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.cli.main import main
from relay.config.loading import load_config
from relay.config.tree import Config
from relay.store.api_keys import list_all
from relay.store.connection import StoreError
from relay.store.database import running_database
from relay.store.meta import get_or_create
from tests.certificates import write_certificate

SECRET = "s" * 32
COMMANDS = [
    "",
    "init",
    "check",
    "docs",
    "serve",
    "systemd",
    "token",
    "keys",
    "keys create",
    "keys list",
    "keys revoke",
    "keys tier",
    "publish",
    "backup",
    "bench",
    *(f"bench {load}" for load in ("chat", "connect", "fanout", "idle", "ingest", "market", "posts")),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relay(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, args, input=stdin, prog_name="relay", catch_exceptions=False)


def done(*args: str, stdin: str | None = None) -> str:
    result = relay(*args, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def failed(*args: str, code: int = 1, stdin: str | None = None) -> str:
    result = relay(*args, stdin=stdin)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def process(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environ},
    )


def configured(folder: Path, text: str) -> None:
    (folder / "relay.toml").write_text(text)


# The whole


def test_every_command_has_help_with_an_example() -> None:
    for command in COMMANDS:
        text = done(*command.split(), "--help")
        assert f"Usage: relay {command}".rstrip() in text
        if command and command != "keys":
            assert f"relay {command}" in text.partition("Example:")[2], command


def test_the_commands_that_have_help_are_all() -> None:
    def paths(command: click.Command, path: str) -> Iterator[str]:
        yield path
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from paths(inner, f"{path} {name}".strip())

    assert sorted(paths(main, "")) == sorted(COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    result = process("--version")
    assert re.fullmatch(r"relay \d+\.\d+\.\d+\n", result.stdout)


def test_help_imports_nothing_heavy() -> None:
    heavy = ("trio", "quart", "hypercorn", "jwt", "cryptography", "cattrs", "aiosqlite", "sqlite3")
    program = f"import sys, relay.cli.main; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == "[]\n"


def test_wrong_usage_exits_with_2() -> None:
    for args in (["nonsense"], ["token"], ["serve", "--port", "x"], ["init", "a", "b"]):
        result = process(*args)
        assert (result.returncode, result.stdout) == (2, "")
        assert "Error: " in result.stderr


# init and check


def test_init_writes_a_private_file_with_a_fresh_secret(folder: Path) -> None:
    result = process("init")
    assert (result.returncode, result.stdout) == (0, "")
    assert "relay serve" in result.stderr
    file = folder / "relay.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = load_config(file, {}, {}).auth.jwt_secret
    assert secret is not None
    assert len(secret) >= 64
    assert secret not in result.stderr
    done("init", "other.toml")
    assert load_config(Path("other.toml"), {}, {}).auth.jwt_secret not in (None, secret)


def test_init_names_the_file_in_what_to_do_next() -> None:
    assert "relay serve --config 'my relay.toml'" in relay("init", "my relay.toml").stderr


def test_init_does_not_overwrite(folder: Path) -> None:
    configured(folder, "# mine")
    assert "relay.toml exists already" in failed("init")
    assert (folder / "relay.toml").read_text() == "# mine"
    (folder / "dangling.toml").symlink_to(folder / "elsewhere")
    assert "exists already" in failed("init", "dangling.toml")


def test_init_where_nothing_can_be_written() -> None:
    assert "nowhere/relay.toml cannot be written: No such file or directory" in failed("init", "nowhere/relay.toml")


def test_init_leaves_no_half_a_file() -> None:
    Path("full.toml").symlink_to("/dev/full")
    assert "exists already" in failed("init", "full.toml")


def test_check_says_what_is_served_where(folder: Path) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"\n[dialects.feeds]\nenabled = false')
    text = done("check")
    assert "relay.toml is right." in text
    assert "http://127.0.0.1:8080" in text
    assert re.search(r"^  live +.*/v1/live", text, re.MULTILINE)
    assert re.search(r"^  feeds +off$", text, re.MULTILINE)
    assert str(folder / "relay.db") in text
    assert SECRET not in text
    assert not (folder / "relay.db").exists()


@pytest.mark.parametrize(("expires_in", "until"), [(86400.0, "valid until"), (-86400.0, "EXPIRED")])
def test_check_says_that_it_is_served_with_tls(folder: Path, expires_in: float, until: str) -> None:
    write_certificate(folder, expires_in=expires_in)
    (folder / "relay.toml").write_text('[server]\ntls_cert = "relay.crt"\ntls_key = "relay.key"\n')
    text = done("check")
    assert "Served at https://127.0.0.1:8080:" in text
    assert f"Certificate: for localhost, 127.0.0.1, {until} 20" in text


def test_check_says_where_the_keys_of_tokens_come_from(folder: Path) -> None:
    url = "https://login.example.org/jwks"
    configured(folder, f'[auth]\njwt_algorithms = ["RS256"]\njwt_jwks_url = "{url}"\n')
    assert f"Tokens: RS256, with the public keys at {url}." in done("check")


def test_check_of_a_file_that_cannot_be() -> None:
    assert "File name too long" in failed("check", f"--database={'x' * 300}")


def test_check_without_a_file() -> None:
    text = done("check")
    assert "No file, all at its default." in text
    assert "a secret of its own, kept in the database" in text


def test_check_reports_every_error_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(folder, "[server]\nport = 70000\nprot = 1\n[auth]\njwt_secret = 'hunter2'")
    monkeypatch.setenv("RELAY_LOG__LEVEL", "loud")
    text = failed("check")
    assert "Error: the configuration has 4 problems:" in text
    assert "  server.port: 70000 is not a port; use 0 to 65535\n" in text
    assert "  server.prot: is no setting; did you mean server.port?\n" in text
    assert "  auth.jwt_secret: is only 7 bytes long; use at least 32" in text
    assert "(set by RELAY_LOG__LEVEL)" in text
    assert "hunter2" not in text


def test_a_missing_file_is_one_clear_sentence() -> None:
    for command in ("check", "serve", "keys list", "token u"):
        result = process(*command.split(), "--config", "missing.toml")
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == (
            "Error: the configuration has a problem:\n"
            "  missing.toml: there is no such file; write one with: relay init missing.toml\n"
        )


def test_the_environment_may_name_the_file(folder: Path) -> None:
    (folder / "other.toml").write_text("[server]\nport = 1234")
    assert "http://127.0.0.1:1234" in process("check", RELAY_CONFIG="other.toml").stdout


# serve


def test_serve_passes_its_flags_on_and_checks_them() -> None:
    text = failed("serve", "--port", "70000", "--host", "a b")
    assert "server.port: 70000 is not a port; use 0 to 65535 (set by the command line)" in text
    assert "server.host:" in text


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stand in for the server: it records its configuration and returns at once, or raises `outcome`."""
    module = ModuleType("relay.server.process")
    module.outcome = None  # type: ignore[attr-defined]

    def serve(config: Config) -> None:
        module.config = config  # type: ignore[attr-defined]
        if isinstance(module.outcome, Exception):
            raise module.outcome

    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "relay.server.process", module)
    return module


def test_serve_runs_the_server_with_its_flags(folder: Path, server: Any) -> None:
    configured(folder, "[server]\nport = 1\nhost = '::1'")
    done("serve", "--port", "2")
    assert (server.config.server.host, server.config.server.port) == ("::1", 2)
    done("serve", "--host", "localhost")
    assert (server.config.server.host, server.config.server.port) == ("localhost", 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ExceptionGroup("", [ExceptionGroup("", [OSError(errno.EADDRINUSE, "cannot listen on x port 1: in use")])]),
            "cannot listen on x port 1: in use; change server.host or server.port",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "cannot listen on x port 1: not known"),
            "cannot listen on x port 1: not known; change server.host or server.port",
        ),
        (StoreError("The database is odd."), "The database is odd."),
    ],
)
def test_serve_that_cannot_start_says_why(server: Any, error: Exception, message: str) -> None:
    server.outcome = error
    assert f"Error: {message}" in failed("serve")


def test_serve_does_not_hide_a_defect(server: Any) -> None:
    for error in (OSError(errno.EIO, "x"), ExceptionGroup("", [ValueError("x"), StoreError("y")]), KeyError("x")):
        server.outcome = error
        with pytest.raises(type(error)):
            relay("serve")


# token


def claims(text: str, secret: str = SECRET, **options: Any) -> dict[str, Any]:
    token = text.removesuffix("\n")
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    return jwt.decode(token, secret, algorithms=["HS256"], **options)


def test_a_token_names_the_user_and_expires(folder: Path) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"')
    result = process("token", "alice")
    found = claims(result.stdout)
    assert abs(found.pop("iat") - time.time()) < 30
    assert abs(found.pop("exp") - time.time() - 3600) < 30
    assert found == {"sub": "alice"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Alice", {"given_name": "Alice"}),
        ("Alice Ek", {"given_name": "Alice", "family_name": "Ek"}),
        (" Alice  van Dam ", {"given_name": "Alice  van", "family_name": "Dam"}),
        ("Åsa Öst", {"given_name": "Åsa", "family_name": "Öst"}),
        (" ", {}),
    ],
)
def test_a_name_is_parted_at_its_last_space(folder: Path, name: str, expected: dict[str, str]) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"')
    found = claims(done("token", "u", "--name", name))
    assert {key: value for key, value in found.items() if key.endswith("_name")} == expected


def test_a_token_of_an_admin_with_issuer_and_audience(folder: Path) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"\nissuer = "https://i.example"\naudience = "relay"')
    found = claims(done("token", "u", "--admin"), audience="relay", issuer="https://i.example")
    assert found["permissions"] == ["admin"]


@pytest.mark.parametrize(("typed", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800)])
def test_how_long_a_token_is_valid(folder: Path, typed: str, seconds: int) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"')
    found = claims(done("token", "u", "--expires", typed))
    assert found["exp"] - found["iat"] == seconds


@pytest.mark.parametrize("typed", ["", "1", "0s", "-1h", "1.5h", "1w", "9999d", "99999999999999s"])
def test_what_is_no_duration(typed: str) -> None:
    assert "is no duration; use one such as 90s, 15m, 1h or 7d" in failed("token", "u", f"--expires={typed}", code=2)


@pytest.mark.parametrize("user", ["", " ", "a\nb", "x" * 257])
def test_what_is_no_user(user: str) -> None:
    assert "is no user id; use 1 to 256 printable characters" in failed("token", user, code=2)


def test_without_a_configured_secret_the_one_in_the_database_is_used(folder: Path) -> None:
    first, second = done("token", "u"), done("token", "u")
    assert (folder / "relay.db").exists()
    ((found,),) = stored(folder, "SELECT value FROM meta WHERE key = 'jwt_secret'")
    assert len(found) >= 32
    assert claims(first, found)["sub"] == claims(second, found)["sub"] == "u"


def test_with_only_a_public_key_no_token_can_be_made(folder: Path) -> None:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    (folder / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    configured(folder, '[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]')
    assert "only a public key is configured" in failed("token", "u")
    assert not (folder / "relay.db").exists()


# keys


def stored(folder: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(folder / "relay.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_a_key_is_printed_alone_and_once(folder: Path) -> None:
    result = process("keys", "create", "--user", "ops")
    assert result.returncode == 0
    assert re.fullmatch(r"rk_live_[A-Za-z0-9_-]{32,}\n", result.stdout)
    secret = result.stdout.strip()
    ((id_, tier, scopes),) = stored(folder, "SELECT id, tier, scopes FROM api_keys")
    assert (tier, scopes) == ("free", "connect")
    assert f"This is {id_}: user ops, tier free, may connect." in result.stderr
    assert secret not in result.stderr + done("keys", "list") + done("keys", "list", "--json")
    assert secret.encode() not in (folder / "relay.db").read_bytes()


def test_a_key_of_another_kind(folder: Path) -> None:
    configured(folder, '[auth]\nkey_prefix = "ci"\n[store]\npath = "keys.db"')
    args = ["--user", "u", "--scope", "publish", "--scope", "admin", "--tier", "pro", "--test"]
    assert done("keys", "create", *args).startswith("ci_test_")
    (entry,) = json.loads(done("keys", "list", "--json"))
    assert (entry["userId"], entry["tier"], entry["scopes"]) == ("u", "pro", ["admin", "publish"])
    assert entry["revokedAt"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["createdAt"])
    assert (folder / "keys.db").exists()
    assert not (folder / "relay.db").exists()


def test_a_key_of_nobody_or_with_an_unknown_scope_is_refused(folder: Path) -> None:
    assert "Missing option '--user'" in failed("keys", "create", code=2)
    assert "is no user id" in failed("keys", "create", "--user", "", code=2)
    assert "'everything' is not one of 'connect', 'publish', 'admin'" in failed(
        "keys", "create", "--user", "u", "--scope", "everything", code=2
    )
    assert not (folder / "relay.db").exists()


def test_a_database_that_there_is_not(folder: Path) -> None:
    """To make one is said, for it is hardly the one that a server uses; to list what is in it makes none."""
    missing = f"there is no database at {folder / 'relay.db'}. Run this in the folder of the server"
    for args in (["list"], ["revoke", "key_x"], ["tier", "key_x", "pro"]):
        assert missing in failed("keys", *args)
    assert not (folder / "relay.db").exists()
    for args in (["keys", "create", "--user", "u"], ["token", "u"]):
        result = relay(*args)
        assert f"There was no database at {folder / 'relay.db'}, so one was made." in result.stderr
        assert len(result.stdout.splitlines()) == 1
        assert "was made" not in relay(*args).stderr
        (folder / "relay.db").unlink()


def test_the_table_of_keys() -> None:
    done("token", "alice")
    result = relay("keys", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "There are no keys yet; make one with: relay keys create --user USER" in result.stderr
    assert json.loads(done("keys", "list", "--json")) == []
    for user in ("alice", "bob the builder"):
        done("keys", "create", "--user", user)
    head, first, second = done("keys", "list").splitlines()
    assert head.split() == ["ID", "KEY", "USER", "TIER", "SCOPES", "CREATED", "REVOKED"]
    for line, user in ((first, "alice"), (second, "bob the builder")):
        assert line[head.index("USER") :].startswith(user)
        assert line[head.index("REVOKED") :] == "-"


def test_a_terminal_that_cannot_show_a_user_gets_an_escape() -> None:
    done("keys", "create", "--user", "жук")
    result = process("keys", "list", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert r"\u0436\u0443\u043a" in result.stdout


def test_a_key_is_revoked_and_moved(folder: Path) -> None:
    done("keys", "create", "--user", "u")
    ((id_,),) = stored(folder, "SELECT id FROM api_keys")
    result = relay("keys", "tier", id_, "pro")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{id_} has the tier pro.\n")
    result = relay("keys", "revoke", id_)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{id_} is revoked.\n")
    (entry,) = json.loads(done("keys", "list", "--json"))
    assert entry["tier"] == "pro"
    assert entry["revokedAt"] >= entry["createdAt"]


def test_an_unknown_key_is_an_error() -> None:
    done("token", "alice")
    for args in (["revoke", "key_x"], ["tier", "key_x", "pro"]):
        assert "Error: there is no key with the ID key_x; `relay keys list` shows all" in failed("keys", *args)
    text = failed("keys", "revoke", "rk_live_abc")
    assert "its ID is wanted" in text
    assert "rk_live_abc" not in text
    failed("keys", "tier", "key_x", "gold", code=2)


async def test_keys_and_tokens_can_be_made_while_the_database_is_in_use(folder: Path) -> None:
    with trio.fail_after(60):
        async with running_database(folder / "relay.db") as database:
            secret = await database.write(lambda connection: get_or_create(connection, "jwt_secret"))
            for args in (["keys", "create", "--user", "u"], ["token", "u"]):
                command = [sys.executable, "-m", "relay", *args]
                result = await trio.run_process(command, capture_stdout=True)
            assert claims(result.stdout.decode(), secret)["sub"] == "u"
            (key,) = await database.read(list_all)
            assert key.user_id == "u"


def test_a_database_that_cannot_be_used_is_one_clear_sentence(folder: Path) -> None:
    (folder / "relay.db").write_text("x" * 5000)
    for args in (["keys", "list"], ["token", "u"]):
        text = failed(*args)
        assert text.startswith("Error: ")
        assert "relay.db is not an SQLite database" in text


def test_a_database_without_room_is_one_clear_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("token", "alice")

    def full(*args: object, **kwargs: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("relay.store.api_keys.create", full)
    text = failed("keys", "create", "--user", "u")
    assert text == f"Error: {folder / 'relay.db'} cannot be written: database or disk is full\n"


# publish


class FakeServer(HTTPServer):
    """Answers every POST with what it was told to, and keeps what it was asked."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body = status, body
        self.asked: list[tuple[str, str | None, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(FakeServer, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.append((self.path, self.headers["X-API-Key"], body))
        self.send_response(server.status)
        if server.status == 307:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(status: int, body: object) -> Iterator[FakeServer]:
    server = FakeServer(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


POSITION = [{"channel": "market:BTC", "offset": 7, "epoch": "e"}]


def test_publish_prints_the_position() -> None:
    with serving(200, {"success": True, "status": 200, "data": POSITION}) as server:
        result = process("publish", "market:BTC", '{"price": 1.5}', "--url", server.url + "/", RELAY_KEY="rk_live_x")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == POSITION
    ((path, key, body),) = server.asked
    assert (path, key) == ("/v1/publish", "rk_live_x")
    assert json.loads(body) == {"channel": "market:BTC", "data": {"price": 1.5}}


def test_publish_reads_stdin_and_takes_a_type_and_a_path() -> None:
    with serving(200, {"data": POSITION}) as server:
        done("publish", "c", "-", "--type", "t", "--url", f"{server.url}/base/", "--key", "k", stdin='{"ü": "ö"}')
    ((path, key, body),) = server.asked
    assert (path, key) == ("/base/v1/publish", "k")
    assert json.loads(body) == {"channel": "c", "type": "t", "data": {"ü": "ö"}}


def test_publish_ignores_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(200, {"data": POSITION}) as server:
        done("publish", "c", "{}", "--url", server.url, "--key", "k")


def test_publish_over_https(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    write_certificate(tmp_path, name="other")
    with serving(200, {"data": POSITION}) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "relay.crt", tmp_path / "relay.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}"
        publish = ("publish", "c", "{}", "--key", "k", "--url", url)
        assert json.loads(done(*publish, "--ca", str(tmp_path / "relay.crt"))) == POSITION
        assert json.loads(done(*publish, "--insecure")) == POSITION
        for options in ((), ("--ca", str(tmp_path / "other.crt"))):
            text = failed(*publish, *options)
            assert f"the certificate of {url} is not trusted (self" in text
            assert "name the one to trust with --ca FILE" in text
        assert len(server.asked) == 2, "the key goes to nobody who is not trusted"
        assert "holds no certificate" in failed(*publish, "--ca", str(tmp_path / "relay.key"), code=2)
        assert "does not exist" in failed(*publish, "--ca", str(tmp_path / "nothing"), code=2)


def test_publish_shows_a_refusal_plainly() -> None:
    refusal = {
        "success": False,
        "status": 400,
        "message": "price is required\x1b[31m",
        "errorId": "e-1",
        "errors": [{"field": "price", "message": "is required"}],
    }
    with serving(400, refusal) as server:
        text = failed("publish", "market:BTC", "{}", "--url", server.url, "--key", "k")
    assert text == (
        "Error: the server refused with 400: price is required\\x1b[31m; price: is required "
        "(errorId e-1 in the server's log)\n"
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, b"<html>"), (200, b"hello"), (200, []), (200, {}), (500, [1]), (307, b""), (404, b"[" * 100_000)],
)
def test_publish_to_something_that_is_not_relay(status: int, body: object) -> None:
    with serving(status, body) as server:
        text = failed("publish", "c", "{}", "--url", server.url, "--key", "k")
        assert f"{server.url} answered {status}, and not as Relay does" in text
        assert len(server.asked) == 1


def test_publish_where_nobody_listens() -> None:
    with serving(200, {}) as server:
        url = server.url
    text = failed("publish", "c", "{}", "--url", url, "--key", "k")
    assert f"nothing answers at {url} (Connection refused); is `relay serve` running there?" in text


def test_publish_to_a_host_that_cannot_be() -> None:
    assert "nothing answers at http://a..b" in failed("publish", "c", "{}", "--url", "http://a..b", "--key", "k")


def test_publish_without_a_key() -> None:
    assert "an API key is needed, by --key or in RELAY_KEY" in failed("publish", "c", "{}", code=2)


@pytest.mark.parametrize("data", ["", "x", "[]", "1", '{"a": NaN}', '{"a": 1e999}', '{"a":' * 100_000])
def test_publish_of_what_is_no_object(data: str) -> None:
    assert "Error: Invalid value for JSON: " in failed("publish", "c", data, "--key", "k", code=2)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:99999", "http://[", "http://a b", "http://x/ü"]
)
def test_publish_to_what_is_no_url(url: str) -> None:
    assert "is no URL of a server" in failed("publish", "c", "{}", "--key", "k", "--url", url, code=2)


def test_a_key_that_would_break_the_request_is_refused() -> None:
    assert "printable ASCII" in failed("publish", "c", "{}", "--key", "a\r\nHost: x", code=2)
