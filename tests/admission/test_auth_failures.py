"""Failed authentications count against an address; everything else passes."""

from __future__ import annotations

import pytest

from relay.admission.auth_failures import AuthFailureLimit
from relay.ground.errors import Code, RequestError


def refusal_of(limit: AuthFailureLimit, address: str, code: Code | None = Code.UNAUTHORIZED) -> Code | None:
    """Return what becomes of a block that raises this code, or of one that succeeds."""
    try:
        with limit.counted(address):
            if code is not None:
                raise RequestError(code, "")
    except RequestError as refusal:
        return refusal.code
    return None


async def test_only_failures_count() -> None:
    limit = AuthFailureLimit(2, 2 / 60)
    for _ in range(3):
        assert refusal_of(limit, "a", None) is None
        assert refusal_of(limit, "a", Code.UNAVAILABLE) is Code.UNAVAILABLE
    assert [refusal_of(limit, "a") for _ in range(3)] == [Code.UNAUTHORIZED, Code.UNAUTHORIZED, Code.RATE_LIMITED]
    assert refusal_of(limit, "a", None) is None, "valid credentials pass all the same"
    assert refusal_of(limit, "b") is Code.UNAUTHORIZED


async def test_the_refusal_says_how_long_to_wait_and_keeps_its_cause() -> None:
    limit = AuthFailureLimit(1, 1 / 60, message="Too many.")
    refusal_of(limit, "2001:db8::1")
    with pytest.raises(RequestError, match=r"Too many\.") as caught, limit.counted("2001:db8::2"):
        raise RequestError(Code.UNAUTHORIZED, "wrong")
    assert caught.value.retry_after == pytest.approx(60.0, abs=1)
    assert isinstance(caught.value.__cause__, RequestError)
