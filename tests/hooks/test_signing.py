"""The signature of requests: the test vector of Standard Webhooks, and both keys of a change."""

from __future__ import annotations

import base64

from relay.hooks.signing import signed_headers

KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def test_the_vector_of_the_specification() -> None:
    headers = signed_headers([KEY], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_both_keys_sign_while_a_secret_is_changed() -> None:
    both = signed_headers([KEY, b"k" * 32], "id", 1, b"{}")["webhook-signature"].split(" ")
    alone = [signed_headers([key], "id", 1, b"{}")["webhook-signature"] for key in (KEY, b"k" * 32)]
    assert both == alone
    assert len(set(both)) == 2
