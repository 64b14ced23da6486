"""The patterns of JSON Schemas, against the checks of the code."""

from __future__ import annotations

import re
import sys

import pytest

from relay.ground.schema import NOT_BLANK


@pytest.mark.slow
def test_a_text_is_blank_in_the_schema_if_it_is_in_the_code() -> None:
    """For each character. The pattern has no class such as `\\s`, of which Python and ECMAScript differ."""
    assert not re.search(r"\\[a-zA-Z](?<!\\[trxu])", NOT_BLANK)
    for number in range(sys.maxunicode + 1):
        assert bool(re.search(NOT_BLANK, chr(number))) == bool(chr(number).strip()), hex(number)
