"""The values that dialects share."""

from __future__ import annotations

import pytest

from relay.dialects import wire
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.model.publication import Position


def test_since() -> None:
    assert wire.since({}) is None
    assert wire.since({"since": None}) is None
    assert wire.since({"since": {"offset": 0, "epoch": ""}}) == Position(0, "")


@pytest.mark.parametrize(
    "value",
    [0, False, "", [], {}, {"offset": 1}, {"offset": -1, "epoch": "e"}, {"offset": 1.0, "epoch": "e"},
     {"offset": True, "epoch": "e"}, {"offset": 1, "epoch": 2}],
)  # fmt: skip
def test_what_is_not_a_position_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match=r"^data\.since must have offset"):
        wire.since({"since": value}, "data.since")


@pytest.mark.parametrize(
    ("recovered", "more"), [(None, {}), (True, {"recovered": True}), (False, {"recovered": False})]
)
def test_subscribed(recovered: bool | None, more: dict[str, bool]) -> None:
    assert wire.subscribed({"channel": "c"}, Position(3, "e"), recovered) == {
        "channel": "c",
        "offset": 3,
        "epoch": "e",
        **more,
    }


def test_timestamps_have_whole_seconds_rounded_down() -> None:
    assert wire.timestamp(1_692_095_400_999) == "2023-08-15T10:30:00Z"
    assert wire.timestamp(0) == "1970-01-01T00:00:00Z"


def test_a_frame_that_cannot_be_read_is_an_invalid_request() -> None:
    def fails(error: Exception) -> None:
        raise error

    assert wire.read(max, 1, 2) == 2
    with pytest.raises(RequestError) as refused:
        wire.read(fails, ProtocolError("No."))
    assert (refused.value.code, refused.value.message) == (Code.INVALID_REQUEST, "No.")
    with pytest.raises(RequestError) as refused:
        wire.read(fails, RequestError(Code.FORBIDDEN, "No."))
    assert refused.value.code is Code.FORBIDDEN
