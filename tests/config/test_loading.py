"""Loading: file, environment and flags become one configuration, or every mistake with its key path and source."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.dialects import LiveConfig
from relay.config.loading import ConfigError, Problem, find_config_file, load_config
from relay.config.tree import Config
from tests.config.loaded import SECRET, load, problems, settings, written


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
        ("[server]\nprot = 1", "server.prot", "is not a setting; did you mean server.port?"),
        ("port = 1", "port", "is not a setting; did you mean server.port?"),
        ("[sever]\nport = 1", "sever", "is not a setting; did you mean server?"),
        ("[namespace.orders]", "namespace", "is not a setting; did you mean namespaces?"),
        ("[webhook.backend]\nurl = 1", "webhook", "is not a setting; did you mean webhooks?"),
        ("[hook.backend]\nurl = 1", "hook", "is not a setting; did you mean hooks?"),
        ('[[webhooks]]\nurl = "x"', "webhooks", "not an array; write [webhooks.backend] and its settings below"),
        ("[dialects.life]", "dialects.life", "is not a setting; did you mean dialects.live?"),
        (
            "[dialects.live]\npong_timeout = 1",
            "dialects.live.pong_timeout",
            "did you mean dialects.live.typing_timeout?",
        ),
        ("[log]\nqqq = 1", "log.qqq", "`relay init FILE` writes a file with every setting"),
        ('"a\\nb" = 1', '"a\\nb"', "is not a setting"),
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
        ("server.shutdown_grace", "1" + "0" * 400, "is a number that is too large"),
        ("server.host", "1", "must be a text in quotes, not a whole number"),
        ("server.host", '""', "is not an address"),
        ("server.host", '"127.0.0.1:80"', "is not an address"),
        ("server.host", '"a\\nb"', "must be one line"),
        ("server.allowed_origins", '"*"', "must be an array of texts"),
        ("server.allowed_origins", "[1]", "must be an array of texts"),
        ("server.allowed_origins", '["https://a.org/"]', "is not an origin"),
        ("server.allowed_origins", '["a.org"]', "is not an origin"),
        ("server.allowed_origins", '["https://A.org"]', "is not an origin"),
        ("server.allowed_origins", '["NULL"]', "is not an origin"),
        ("server.allowed_origins", '["https://*"]', "is not an origin"),
        ("server.allowed_origins", '["https://a.*.org"]', "is not an origin"),
        ("server.allowed_origins", '["https://*.*.org"]', "is not an origin"),
        ("server.allowed_origins", '["https://*.[::1]"]', "is not an origin"),
        ("server.allowed_origins", '["*.example.org"]', "is not an origin"),
        ("server.allowed_origins", '["https://*.example.org/"]', "is not an origin"),
        ("server.trusted_proxies", '["10.0.0.1/8"]', "is neither an IP address nor a network"),
        ("server.trusted_proxies", '["::1", "::1"]', "is listed twice"),
        ("server.trusted_proxies", '["::ffff:10.0.0.1"]', "is an IPv4 address in IPv6 notation"),
        ("store.path", '""', "must be the path of a file"),
        ("store.path", '"a\\u0000b"', "must be the path of a file"),
        ("limits.max_outbox_bytes", "9" * 400, "is not a sensible number"),
        ("store.path", '"."', "is a folder"),
        ("store.path", f'"{"x" * 300}"', "cannot be used (File name too long)"),
        ("store.path", '"nowhere/relay.db"', "does not exist; create it first"),
        ("store.synchronous", '"off"', '"off" is unknown; use "normal" or "full"'),
        ("store.synchronous", "1", "must be"),
        ("auth.jwt_algorithms", '["none"]', '"none" is unknown; use "HS256", "RS256", "ES256" or "EdDSA"'),
        ("auth.jwt_algorithms", "[]", "is empty"),
        ("auth.jwt_algorithms", '["RS256"]', "needs auth.jwt_public_key_file"),
        ("auth.key_prefix", '"my_key"', "is not a prefix"),
        ("limits.auth_timeout", "0", "use 0.001 to 3600"),
        ("channels.entities", '["market"]', "is already a namespace of Relay"),
        ("channels.entities", '["conversation"]', "is already a namespace of Relay"),
        ("channels.entities", '["a:b"]', "is not a name for an entity"),
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


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    for path, environ in [(missing, {}), (None, {"RELAY_CONFIG": str(missing)})]:
        with pytest.raises(ConfigError, match=r"missing\.toml: does not exist; create it with: relay init"):
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
        ("RELAY_SERVER__PROT", "does not name a setting; did you mean RELAY_SERVER__PORT?"),
        ("RELAY_SERVER__", "does not name a setting"),
        ("RELAY__PORT", "does not name a setting"),
        ("RELAY_DIALECTS__LIVE", "does not name a setting"),
        ("RELAY_SERVER__PORT__X", "does not name a setting"),
        ("RELAY_WEBHOOKS__BACKEND__SECRET", "names an option of [webhooks.backend]; only the file can set these"),
        ("RELAY_NAMESPACES__ORDERS__PRESENCE", "names an option of [namespaces.orders]; only the file can set these"),
    ],
)
def test_a_variable_that_names_no_setting_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    assert message in problems(tmp_path, environ={name: "1"})[name]


def test_a_variable_for_a_section_that_is_none_in_the_file(tmp_path: Path) -> None:
    assert list(problems(tmp_path, "server = 5", {"RELAY_SERVER__PORT": "1"})) == ["server"]


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([path for path, _ in settings(Config)]), st.text(max_size=20), max_size=5))
def test_no_value_in_the_environment_is_worse_than_a_config_error(values: dict[str, str]) -> None:
    environ = {"RELAY_" + path.upper().replace(".", "__"): value for path, value in values.items()}
    reported: set[str] = set()
    try:
        load_config(Path("/dev/null"), environ, {})
    except ConfigError as error:
        reported = {problem.key_path for problem in error.problems}
    # A conflict may name another setting of the section.
    assert {path.rpartition(".")[0] for path in reported} <= {path.rpartition(".")[0] for path in values}


TLS = '[server]\ntls_cert = "relay.crt"\ntls_key = "relay.key"'


TOML = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS = dict(settings(Config))


def fits(value: object, type_: Any) -> bool:
    """Tell whether a TOML value is of the type of a setting, with no conversion but that of a whole number to a float."""
    if get_origin(type_) is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if get_origin(type_) is Literal:
        return value in get_args(type_)
    wanted = {str if inner is Path else inner for inner in get_args(type_) or (type_,)}
    return type(value) in wanted or (float in wanted and type(value) is int)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), TOML, min_size=1, max_size=4))
def test_a_value_of_another_type_is_never_converted(values: dict[str, Any]) -> None:
    """ "7" is not 7, 1.5 is not 1, and true is not 1: every such setting is reported, whatever is wrong elsewhere."""
    wrong = {key_path for key_path, value in values.items() if not fits(value, FIELDS[key_path].type)}
    try:
        config: Any = load_config(None, {}, values)
    except ConfigError as error:
        assert wrong <= {problem.key_path for problem in error.problems}
        return
    assert not wrong
    for key_path, value in values.items():
        found = functools.reduce(getattr, key_path.split("."), config)
        if isinstance(value, bool | int | float):
            assert found == value
            assert isinstance(found, float) or type(found) is type(value)
