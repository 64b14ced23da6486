import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.origins import OriginPolicy
from relay.config.dialects import LiveConfig
from relay.config.example import render_example
from relay.config.loading import ConfigError, Problem, find_config_file, load_config
from relay.config.tree import AuthConfig, Config, ServerConfig
from tests.certificates import write_certificate

ROOT = Path(__file__).parent.parent
SECRET = "s" * 32


def settings(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, "attrs.Attribute[Any]"]]:
    for field in attrs.fields(cls):
        if field.type is not None and attrs.has(field.type):
            yield from settings(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def written(folder: Path, text: str) -> Path:
    file = folder / "relay.toml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: object) -> Config:
    return load_config(written(folder, text), environ or {}, overrides)


def problems(
    folder: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: object
) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ, **overrides)
    found = {problem.key_path: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "no setting is reported twice"
    return found


# The tree


def test_the_defaults_are_those_that_others_rely_on() -> None:
    config = Config()
    assert attrs.asdict(config.server) == {
        "host": "127.0.0.1",
        "port": 8080,
        "max_connections": 0,
        "shutdown_grace": 10.0,
        "allowed_origins": ("*",),
        "trusted_proxies": ("127.0.0.1", "::1"),
        "tls_cert": None,
        "tls_key": None,
        "metrics_allowed_addresses": ("127.0.0.1", "::1"),
    }
    assert attrs.asdict(config.store) == {"path": Path("relay.db"), "synchronous": "normal"}
    assert attrs.asdict(config.limits) == {
        "max_message_bytes": 65536,
        "messages_per_minute": 100,
        "frames_per_minute": 600,
        "max_subscriptions": 100,
        "auth_timeout": 10.0,
        "handshakes_per_minute": 6000,
        "auth_failures_per_minute": 600,
        "requests_per_minute": 600,
        "max_outbox_bytes": 1048576,
        "max_body_bytes": 65536,
        "max_publish_bytes": 8 * 1024 * 1024,
        "max_publish_items": 1000,
    }
    assert config.auth.jwt_secret is None
    assert config.auth.jwt_algorithms == ("HS256",)
    assert config.auth.key_prefix == "rk"
    assert config.channels.entities == ("task",)
    assert config.channels.history_period == 86400.0
    dialects = config.dialects
    assert [d.ping_interval for d in (dialects.live, dialects.channels, dialects.feeds, dialects.socketio)] == [
        30,
        30,
        50,
        25,
    ]
    assert {d.max_connections for d in (dialects.live, dialects.channels, dialects.feeds, dialects.socketio)} == {
        10_000
    }
    assert dialects.feeds.pong_timeout == 60.0
    assert len(dialects.socketio.symbols) == 20


def test_every_setting_says_why_it_is_there() -> None:
    for path, field in settings(Config):
        reason = field.metadata["reason"]
        assert reason.endswith("."), path
        assert "\n" not in reason, path
        assert "unit" in field.metadata, path


def test_every_number_has_a_unit_and_bounds() -> None:
    for path, field in settings(Config):
        if field.type in (int, float):
            assert field.metadata["unit"] or path == "server.port", path
            assert field.validator is not None, path
            with pytest.raises(ValueError, match=r"use .* to"):
                field.validator(None, field, -1)
            with pytest.raises(ValueError, match=r"use .* to"):
                field.validator(None, field, float("inf"))


def test_a_tree_built_in_code_is_checked_too() -> None:
    with pytest.raises(ValueError, match="70000 is not a port"):
        ServerConfig(port=70000)
    with pytest.raises(ValueError, match="at least 32"):
        AuthConfig(jwt_secret="short")


def test_the_tree_is_frozen_and_does_not_show_its_secrets() -> None:
    auth = AuthConfig(jwt_secret=SECRET, jwt_secret_previous=SECRET)
    assert SECRET not in repr(Config(auth=auth))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        auth.issuer = "x"  # type: ignore[misc]


# The file


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert attrs.evolve(config, store=Config().store) == Config()
    assert config.store.path == tmp_path / "relay.db"


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    config = load(
        tmp_path,
        f"""
        [server]
        host = "::1"
        port = 0
        shutdown_grace = 3  # a whole number is a number
        allowed_origins = ["https://app.example.org", "http://localhost:3000", "capacitor://localhost"]
        trusted_proxies = ["10.0.0.0/8", "::1"]
        [store]
        path = "data/x.db"
        synchronous = "full"
        [auth]
        jwt_secret = "{SECRET}"
        issuer = ""
        [channels]
        entities = []
        durable = ["trades"]
        [dialects.live]
        enabled = false
        """,
    )
    assert config.server.host == "::1"
    assert config.server.port == 0
    assert config.server.shutdown_grace == 3.0
    assert type(config.server.shutdown_grace) is float
    assert config.server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert config.store.path == tmp_path / "data" / "x.db"
    assert config.store.synchronous == "full"
    assert config.auth.jwt_secret == SECRET
    assert config.auth.issuer is None
    assert config.channels.entities == ()
    assert config.channels.durable == ("trades",)
    assert config.dialects.live == LiveConfig(enabled=False)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        [server]
        port = 70000
        max_connections = -1
        [auth]
        jwt_secret = "short"
        [dialects.feeds]
        ping_interval = 60
        nonsense = 1
        """,
        {"RELAY_LOG__LEVEL": "loud", "RELAY_SERVER__PROT": "1"},
    )
    assert set(found) == {
        "server.port",
        "server.max_connections",
        "auth.jwt_secret",
        "dialects.feeds.ping_interval",
        "dialects.feeds.nonsense",
        "log.level",
        "RELAY_SERVER__PROT",
    }
    assert found["server.port"] == "70000 is not a port; use 0 to 65535"
    assert str(Problem("server.port", found["server.port"])) == "server.port: 70000 is not a port; use 0 to 65535"


@pytest.mark.parametrize(
    ("text", "key_path", "message"),
    [
        ("[server]\nprot = 1", "server.prot", "is no setting; did you mean server.port?"),
        ("port = 1", "port", "is no setting; did you mean server.port?"),
        ("[sever]\nport = 1", "sever", "is no setting; did you mean server?"),
        ("[dialects.life]", "dialects.life", "is no setting; did you mean dialects.live?"),
        (
            "[dialects.live]\npong_timeout = 1",
            "dialects.live.pong_timeout",
            "did you mean dialects.live.typing_timeout?",
        ),
        ("[log]\nqqq = 1", "log.qqq", "a file with all there are is written by: relay init FILE"),
        ('"a\\nb" = 1', '"a\\nb"', "is no setting"),
        ("server = 5", "server", "is a section, not a whole number; write [server] and its settings below"),
        ("[[server]]", "server", "is a section, not an array"),
        ("[server.port]", "server.port", "must be a whole number, not a table"),
    ],
)
def test_what_is_no_setting(tmp_path: Path, text: str, key_path: str, message: str) -> None:
    found = problems(tmp_path, text)
    assert list(found) == [key_path]
    assert message in found[key_path]


@pytest.mark.parametrize(
    ("key_path", "value", "message"),
    [
        ("server.port", '"8080"', "must be a whole number, not a text"),
        ("server.port", "true", "must be a whole number, not true or false"),
        ("server.port", "8080.0", "must be a whole number, not a number"),
        ("server.port", "-1", "-1 is not a port"),
        ("server.port", "1979-05-27", "must be a whole number, not a date"),
        ("server.shutdown_grace", "true", "must be a number, not true or false"),
        ("server.shutdown_grace", "nan", "nan is not a sensible number of seconds"),
        ("server.shutdown_grace", "1" + "0" * 400, "is too large a number"),
        ("server.host", "1", "must be a text in quotes, not a whole number"),
        ("server.host", '""', "is no address"),
        ("server.host", '"127.0.0.1:80"', "is no address"),
        ("server.host", '"a\\nb"', "must be one line"),
        ("server.allowed_origins", '"*"', "must be an array of texts"),
        ("server.allowed_origins", "[1]", "must be an array of texts"),
        ("server.allowed_origins", '["https://a.org/"]', "is no origin"),
        ("server.allowed_origins", '["a.org"]', "is no origin"),
        ("server.allowed_origins", '["https://A.org"]', "is no origin"),
        ("server.allowed_origins", '["NULL"]', "is no origin"),
        ("server.allowed_origins", '["https://*"]', "is no origin"),
        ("server.allowed_origins", '["https://a.*.org"]', "is no origin"),
        ("server.allowed_origins", '["https://*.*.org"]', "is no origin"),
        ("server.allowed_origins", '["https://*.[::1]"]', "is no origin"),
        ("server.allowed_origins", '["*.example.org"]', "is no origin"),
        ("server.allowed_origins", '["https://*.example.org/"]', "is no origin"),
        ("server.trusted_proxies", '["10.0.0.1/8"]', "is neither an IP address nor a network"),
        ("server.trusted_proxies", '["::1", "::1"]', "is there twice"),
        ("server.trusted_proxies", '["::ffff:10.0.0.1"]', "is of IPv4, in the notation of IPv6"),
        ("store.path", '""', "must be the path of a file"),
        ("store.path", '"a\\u0000b"', "must be the path of a file"),
        ("limits.max_outbox_bytes", "9" * 400, "is not a sensible number"),
        ("store.path", '"."', "is a folder"),
        ("store.path", f'"{"x" * 300}"', "cannot be used (File name too long)"),
        ("store.path", '"nowhere/relay.db"', "there is no folder"),
        ("store.synchronous", '"off"', '"off" is unknown; use "normal" or "full"'),
        ("store.synchronous", "1", "must be"),
        ("auth.jwt_algorithms", '["none"]', '"none" is unknown; use "HS256", "RS256", "ES256" or "EdDSA"'),
        ("auth.jwt_algorithms", "[]", "is empty"),
        ("auth.jwt_algorithms", '["RS256"]', "needs auth.jwt_public_key_file"),
        ("auth.key_prefix", '"my_key"', "is not a prefix"),
        ("limits.auth_timeout", "0", "use 0.001 to 3600"),
        ("channels.entities", '["market"]', "is a kind of channel that Relay has already"),
        ("channels.entities", '["conversation"]', "is a kind of channel that Relay has already"),
        ("channels.entities", '["a:b"]', "is no name for an entity"),
        ("channels.durable", '["chatroom"]', "is unknown"),
        ("log.level", '"trace"', "is unknown"),
        ("dialects.live.enabled", "1", "must be true or false, not a whole number"),
        ("dialects.live.ping_interval", "60", "60.0 is not less than idle_timeout (60.0)"),
        ("dialects.channels.ping_interval", "61", "is not less than idle_timeout"),
        ("dialects.feeds.ping_interval", "60", "is not less than pong_timeout"),
        ("dialects.socketio.symbols", '["btc"]', "is not a symbol; use 1 to 64 characters in upper case"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right(tmp_path: Path, key_path: str, value: str, message: str) -> None:
    section, _, key = key_path.rpartition(".")
    found = problems(tmp_path, f"[{section}]\n{key} = {value}")
    assert list(found) == [key_path]
    assert message in found[key_path]


@pytest.mark.parametrize(
    "entry",
    ["*", "null", "https://app.example.org", "https://*.example.org", "http://localhost:5173", "https://*.example.org:8443",
     "http://[::1]:8080", "capacitor://localhost"],
)  # fmt: skip
def test_origins_that_may_be_allowed(tmp_path: Path, entry: str) -> None:
    """What the configuration takes, the policy understands."""
    allowed = load(tmp_path, f'[server]\nallowed_origins = ["{entry}"]').server.allowed_origins
    origin = entry.replace("*.", "a.b.") if entry != "*" else "https://any.org"
    assert OriginPolicy(allowed).allows(origin.encode(), b"relay.example.org")


def test_a_short_secret_is_refused_without_being_shown(tmp_path: Path) -> None:
    message = problems(tmp_path, '[auth]\njwt_secret = "hunter2"')["auth.jwt_secret"]
    assert message.startswith("is only 7 bytes long; use at least 32, ")
    assert "openssl rand" in message
    assert "hunter2" not in message


def test_a_secret_is_measured_in_bytes(tmp_path: Path) -> None:
    assert load(tmp_path, '[auth]\njwt_secret = "' + "é" * 16 + '"').auth.jwt_secret == "é" * 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server]\nport = \n", "line 2, column 8: invalid value"),
        (b"[server\n", "line 1, column 8: expected"),
        (b"a = 1\na = 2\n", "line 2, column 6: cannot overwrite a value"),
        (b'a = """', "line 1, column 8:"),
        (b"[server]\n# caf\xe9\n", "line 2 is not UTF-8"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"1" * 5000, "too long"),
        (b"#" * 2_000_000, "is larger than"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {}, {})
    (problem,) = caught.value.problems
    assert problem.key_path == str(file)
    assert message in problem.message


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load_config(file, {}, {}).server.port == 1


# Which file


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    for path, environ in [(missing, {}), (None, {"RELAY_CONFIG": str(missing)})]:
        with pytest.raises(ConfigError, match=r"missing\.toml: there is no such file; write one with: relay init"):
            load_config(path, environ, {})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {}, {})


def test_without_a_file_there_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config_file(None, {}) is None
    assert load_config(None, {}, {}).store.path == tmp_path / "relay.db"


def test_the_file_in_the_working_directory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "[server]\nport = 1")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2")
    assert load_config(None, {}, {}).server.port == 1
    assert load_config(None, {"RELAY_CONFIG": ""}, {}).server.port == 1
    assert load_config(None, {"RELAY_CONFIG": "other.toml"}, {}).server.port == 2
    assert load_config(Path("relay.toml"), {"RELAY_CONFIG": "other.toml"}, {}).server.port == 1


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    written(folder, '[store]\npath = "x.db"')
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("etc/relay.toml"), {}, {}).store.path == folder / "x.db"
    absolute = {"RELAY_STORE__PATH": str(tmp_path / "y.db")}
    assert load_config(Path("etc/relay.toml"), absolute, {}).store.path == tmp_path / "y.db"


# The environment and flags


def test_the_environment_overrides_the_file_and_flags_override_that(tmp_path: Path) -> None:
    text = "[server]\nport = 1\nmax_connections = 1\nhost = 'a'"
    environ = {"RELAY_SERVER__PORT": "2", "RELAY_SERVER__MAX_CONNECTIONS": "2"}
    server = load_config(written(tmp_path, text), environ, {"server.port": 3}).server
    assert (server.port, server.max_connections, server.host) == (3, 2, "a")


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("RELAY_SERVER__HOST", "0.0.0.0", "0.0.0.0"),
        ("RELAY_SERVER__HOST", '"::1"', "::1"),
        ("RELAY_SERVER__ALLOWED_ORIGINS", '["https://a.org"]', ("https://a.org",)),
        ("RELAY_DIALECTS__LIVE__ENABLED", "false", False),
        ("RELAY_LIMITS__AUTH_TIMEOUT", "5", 5.0),
        ("RELAY_LOG__LEVEL", "debug", "debug"),
        ("RELAY_AUTH__JWT_SECRET", "1" * 64, "1" * 64),
        ("RELAY_AUTH__JWT_SECRET", "true" + "x" * 32, "true" + "x" * 32),
        ("RELAY_AUTH__ISSUER", "2020-01-01", "2020-01-01"),
        ("RELAY_AUTH__ISSUER", "", None),
    ],
)
def test_a_variable_holds_a_toml_value_or_else_a_text(tmp_path: Path, name: str, raw: str, expected: object) -> None:
    value: object = load(tmp_path, environ={name: raw})
    for part in name.removeprefix("RELAY_").lower().split("__"):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_a_wrong_value_says_where_it_was_set(tmp_path: Path) -> None:
    path = "server.port"
    assert problems(tmp_path, environ={"RELAY_SERVER__PORT": "x"})[path] == (
        "must be a whole number, not a text (set by RELAY_SERVER__PORT)"
    )
    with pytest.raises(ConfigError, match=r"70000 is not a port.*\(set by the command line\)"):
        load_config(written(tmp_path, ""), {}, {path: 70000})
    assert "set by" not in problems(tmp_path, "[server]\nport = 70000")[path]


def test_a_variable_cannot_smuggle_in_a_second_setting(tmp_path: Path) -> None:
    assert list(problems(tmp_path, environ={"RELAY_SERVER__PORT": "1\nhost = 'evil'"})) == ["server.port"]


def test_a_variable_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    assert "UTF-8" in problems(tmp_path, environ={"RELAY_AUTH__JWT_SECRET": "\udcff" * 32})["auth.jwt_secret"]


def test_variables_with_one_underscore_are_none_of_ours(tmp_path: Path) -> None:
    environ = {"RELAY_KEY": "x", "RELAY_SERVER_PORT": "tcp://10.0.0.1:80", "RELAYED__X": "1", "PATH": "/bin"}
    assert load(tmp_path, environ=environ) == load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RELAY_SERVER__PROT", "is the name of no setting; did you mean RELAY_SERVER__PORT?"),
        ("RELAY_SERVER__", "is the name of no setting"),
        ("RELAY__PORT", "is the name of no setting"),
        ("RELAY_DIALECTS__LIVE", "is the name of no setting"),
        ("RELAY_SERVER__PORT__X", "is the name of no setting"),
    ],
)
def test_a_variable_that_names_no_setting_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    assert message in problems(tmp_path, environ={name: "1"})[name]


def test_a_variable_for_a_section_that_is_none_in_the_file(tmp_path: Path) -> None:
    assert list(problems(tmp_path, "server = 5", {"RELAY_SERVER__PORT": "1"})) == ["server"]


@given(st.dictionaries(st.sampled_from([path for path, _ in settings(Config)]), st.text(max_size=20), max_size=5))
def test_no_value_in_the_environment_is_worse_than_a_config_error(values: dict[str, str]) -> None:
    environ = {"RELAY_" + path.upper().replace(".", "__"): value for path, value in values.items()}
    reported: set[str] = set()
    try:
        load_config(Path("/dev/null"), environ, {})
    except ConfigError as error:
        reported = {problem.key_path for problem in error.problems}
    assert reported <= values.keys()


# Public keys


def public_key_file(folder: Path, kind: str) -> Path:
    private: Any = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    file = folder / "key.pem"
    file.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_wants_its_algorithm(tmp_path: Path, algorithm: str) -> None:
    public_key_file(tmp_path, algorithm)
    text = '[auth]\njwt_public_key_file = "key.pem"\n'
    both = f'jwt_algorithms = ["HS256", "{algorithm}"]\n'
    for more in (f'jwt_algorithms = ["{algorithm}"]', f'{both}jwt_secret = "{SECRET}"'):
        assert load(tmp_path, text + more).auth.jwt_public_key_file == tmp_path / "key.pem"
    assert "must be set for HS256" in problems(tmp_path, text + both)["auth.jwt_secret"]
    message = problems(tmp_path, text)["auth.jwt_algorithms"]
    assert message.startswith(f'["HS256"] does not fit the key in auth.jwt_public_key_file; use ["{algorithm}"]')
    wrong = "ES256" if algorithm == "RS256" else "RS256"
    assert (
        "does not fit"
        in problems(tmp_path, f'{text}jwt_algorithms = ["{algorithm}", "{wrong}"]')["auth.jwt_algorithms"]
    )


def test_a_secret_that_no_algorithm_uses_is_refused(tmp_path: Path) -> None:
    public_key_file(tmp_path, "EdDSA")
    text = f'[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]\njwt_secret = "{SECRET}"'
    assert "is set but never used" in problems(tmp_path, text)["auth.jwt_secret"]


@pytest.mark.parametrize(("kind", "message"), [("RSA-1024", "has 1024 bits; use one of 2048"), ("P-384", "of a kind")])
def test_a_public_key_that_is_not_good_enough(tmp_path: Path, kind: str, message: str) -> None:
    public_key_file(tmp_path, kind)
    assert message in problems(tmp_path, '[auth]\njwt_public_key_file = "key.pem"')["auth.jwt_public_key_file"]


def test_a_public_key_file_that_holds_none(tmp_path: Path) -> None:
    text = '[auth]\njwt_public_key_file = "key.pem"'
    path = "auth.jwt_public_key_file"
    assert "cannot be read (No such file or directory)" in problems(tmp_path, text)[path]
    (tmp_path / "key.pem").write_text("nothing")
    assert "no public key that can be read" in problems(tmp_path, text)[path]
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    assert "holds a private key" in problems(tmp_path, text)[path]


@pytest.mark.parametrize("setting", ["jwt_secret", "jwt_secret_previous"])
@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN PUBLIC KEY-----MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAGb9ECWmEzf6FQbrBZ9w7",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh root@host",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNf",
    ],
)
def test_a_key_is_no_secret(tmp_path: Path, setting: str, value: str) -> None:
    message = problems(tmp_path, f'[auth]\n{setting} = "{value}"')[f"auth.{setting}"]
    assert "is a key or certificate" in message
    assert "auth.jwt_public_key_file" in message
    assert value[20:40] not in message


def test_a_key_of_several_lines_is_no_secret(tmp_path: Path) -> None:
    file = public_key_file(tmp_path, "RS256")
    message = problems(tmp_path, f"[auth]\njwt_secret = '''{file.read_text()}'''")["auth.jwt_secret"]
    assert "must be one line" in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("login.example.org/jwks", "is no address"),
        ("https://", "is no address"),
        ("https://login..example.org/jwks", "is no address"),
        ("https://login.example.org:port/", "is no address"),
        ("https://login.example.org/a b", "is no address"),
        ("https://[::1/", "is no address"),
        ("https://user:hunter2@login.example.org/", "holds a name or a password"),
        ("http://login.example.org/jwks", "use https"),
        ("http://127.0.0.1.example.org/jwks", "use https"),
        ("file:///etc/passwd", "is no address"),
        ("ftp://login.example.org/jwks", "use https"),
    ],
)
def test_an_address_of_keys_that_is_none(tmp_path: Path, value: str, message: str) -> None:
    text = f'[auth]\njwt_algorithms = ["RS256"]\njwt_jwks_url = "{value}"'
    found = problems(tmp_path, text)["auth.jwt_jwks_url"]
    assert message in found
    assert "hunter2" not in found


def test_published_keys_want_an_algorithm_of_public_keys(tmp_path: Path) -> None:
    text = '[auth]\njwt_jwks_url = "https://login.example.org/.well-known/jwks.json"\n'
    assert load(tmp_path, text + 'jwt_algorithms = ["RS256", "ES256"]').auth.has_issuer
    assert load(
        tmp_path, text.replace("https://login.example.org", "http://localhost:99") + 'jwt_algorithms = ["EdDSA"]'
    )
    assert "does not fit auth.jwt_jwks_url; name" in problems(tmp_path, text)["auth.jwt_algorithms"]
    both = text + 'jwt_algorithms = ["HS256", "RS256"]\n'
    assert "must be set for HS256" in problems(tmp_path, both)["auth.jwt_secret"]
    assert load(tmp_path, f'{both}jwt_secret = "{SECRET}"')
    public_key_file(tmp_path, "EdDSA")
    file = 'jwt_public_key_file = "key.pem"\n'
    assert load(tmp_path, text + file + 'jwt_algorithms = ["RS256", "EdDSA"]')
    assert (
        "does not fit the key" in problems(tmp_path, text + file + 'jwt_algorithms = ["RS256"]')["auth.jwt_algorithms"]
    )


def test_an_algorithm_without_any_key_is_refused(tmp_path: Path) -> None:
    message = problems(tmp_path, '[auth]\njwt_algorithms = ["RS256"]')["auth.jwt_algorithms"]
    assert "auth.jwt_public_key_file or auth.jwt_jwks_url" in message


def test_a_previous_secret_that_no_algorithm_uses_is_refused(tmp_path: Path) -> None:
    public_key_file(tmp_path, "EdDSA")
    text = f'[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]\njwt_secret_previous = "{SECRET}"'
    assert "is set but never used" in problems(tmp_path, text)["auth.jwt_secret_previous"]


# Certificates


TLS = '[server]\ntls_cert = "relay.crt"\ntls_key = "relay.key"'


def test_a_certificate_is_found_beside_the_file(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    server = load(tmp_path, TLS).server
    assert (server.tls_cert, server.tls_key) == (tmp_path / "relay.crt", tmp_path / "relay.key")


def test_an_expired_certificate_can_be_served(tmp_path: Path) -> None:
    write_certificate(tmp_path, expires_in=-3600)
    assert load(tmp_path, TLS).server.tls_cert == tmp_path / "relay.crt"


@pytest.mark.parametrize(("key", "other"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_without_its_key_or_a_key_alone(tmp_path: Path, key: str, other: str) -> None:
    write_certificate(tmp_path)
    found = problems(tmp_path, f'[server]\n{key} = "relay.{key[-3:]}"')
    assert found == {f"server.{key}": f"is set and server.{other} is not; set both, or neither for plain HTTP"}


@pytest.mark.parametrize("key", ["tls_cert", "tls_key"])
def test_a_file_of_tls_that_is_missing_or_holds_something_else(tmp_path: Path, key: str) -> None:
    write_certificate(tmp_path)
    file = tmp_path / {"tls_cert": "relay.crt", "tls_key": "relay.key"}[key]
    other = tmp_path / {"tls_cert": "relay.key", "tls_key": "relay.crt"}[key]
    for content in (b"nothing", b"", b"\xff" * 100, other.read_bytes()):
        file.write_bytes(content)
        [(where, message)] = problems(tmp_path, TLS).items()
        assert where == f"server.{key}"
        assert "that can be read; it must be PEM and begin with -----BEGIN " in message
    file.unlink()
    assert problems(tmp_path, TLS) == {
        f"server.{key}": f"{file} cannot be read (No such file or directory); name a PEM file"
    }


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    write_certificate(tmp_path, name="other")
    found = problems(tmp_path, TLS.replace("relay.key", "other.key"))
    assert found == {
        "server.tls_key": f"the key in {tmp_path}/other.key is not the one of the certificate in {tmp_path}/relay.crt"
    }


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    write_certificate(tmp_path, passphrase="hunter2")
    assert "is protected by a passphrase; take it off: openssl pkey" in problems(tmp_path, TLS)["server.tls_key"]


# The commented file


def test_the_example_in_the_repository_is_the_generated_one() -> None:
    assert (ROOT / "relay.toml.example").read_text(encoding="utf-8") == render_example(None)


def test_the_example_as_it_is_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, render_example(None)) == load(tmp_path)


def test_the_example_with_every_line_uncommented_has_every_setting_at_its_default(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\w+ = )", "", render_example(None), flags=re.MULTILINE)
    assert load(tmp_path, text) == load(tmp_path)
    table = tomllib.loads(text)
    for path, _ in settings(Config):
        value = table
        for part in path.split("."):
            value = value[part]


def test_the_example_explains_every_setting_and_names_its_unit() -> None:
    lines = render_example(None).splitlines()
    for path, field in settings(Config):
        name = path.rpartition(".")[2]
        at = [i for i, line in enumerate(lines) if line.startswith(f"# {name} = ")]
        assert at, path
        assert all(re.match(r"# \S", lines[i - 1]) for i in at), path
        if unit := field.metadata["unit"]:
            assert any(lines[i].endswith(f"  # {unit}") for i in at), path


def test_the_example_with_a_secret_sets_that_alone(tmp_path: Path) -> None:
    text = render_example(SECRET)
    assert text.count(SECRET) == 1
    assert load(tmp_path, text).auth == AuthConfig(jwt_secret=SECRET)
