"""Bodies of requests as classes: the fields of `live`'s REST bodies, against anything that JSON can hold."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.api.bodies import structured
from relay.dialects.live import rest
from relay.ground.errors import Code, FieldError, RequestError
from tests.ground.test_structure import JSON

BODIES = (rest.NewRoom, rest.RoomChange, rest.NewMessage, rest.NewMember, rest.NewNotification)
KEYS = ("name", "description", "type", "id", "message", "clientMessageId", "userId", "title", "priority", "other")


@pytest.mark.slow
@pytest.mark.parametrize("cls", BODIES)
@given(body=st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_only_texts_and_null_get_through(cls: type[Any], body: dict[str, Any]) -> None:
    """No field of these bodies is a number, a truth value or a list: whatever gets through is a text of the body, or null."""
    try:
        fields = attrs.asdict(structured(body, cls))
    except RequestError as refusal:
        assert refusal.code is Code.INVALID_REQUEST
        assert refusal.fields
        assert refusal.message == "; ".join(f"{one.field} {one.message}" for one in refusal.fields)
        return
    sent = [value.strip() for value in body.values() if isinstance(value, str)]
    defaults = {attribute.default for attribute in attrs.fields(cls)}
    for value in fields.values():
        assert value is None or value in defaults or value.strip() in sent


def test_every_wrong_field_is_named_as_clients_call_it() -> None:
    """In the order of the class, each with what it must be."""
    with pytest.raises(RequestError) as caught:
        structured({"clientMessageId": "", "extra": 1}, rest.NewMessage)
    assert caught.value.fields == (
        FieldError("message", "is required"),
        FieldError("clientMessageId", "must be a text of 1 to 128 characters"),
    )


def test_a_change_has_only_the_fields_that_were_sent() -> None:
    """A description of null is a change; a field that was left out is not."""
    assert structured({"description": None}, rest.RoomChange).fields() == {"description": None}
    assert structured({}, rest.RoomChange).fields() == {}
