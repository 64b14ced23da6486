"""JSON Schema (2020-12) of the classes that the code reads and writes: attrs classes with checks, and TypedDicts. Pure."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import attrs

from relay.ground.structure import Check

Schema = dict[str, Any]

MAX_INTEGER = 2**63 - 1
"""The largest integer that a field may have."""
NOT_BLANK = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""The pattern of a text of which `str.strip` leaves something. The `\\s` of JSON Schema lacks five of these, and has U+FEFF."""
JSON: Schema = {
    "description": "Any JSON value. Integers have at most 64 bits, and the whole text at most 128 levels.",
}
"""The schema of data that passes through unread."""
_JSON_REF: Schema = {"$ref": "#/components/schemas/Json"}
_PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: _JSON_REF,
    object: _JSON_REF,
}


class AnyOf:
    """One of several types, for a type that is put together at run time."""

    def __init__(self, *types: Any) -> None:
        self.types = types


@attrs.frozen
class Shaped:
    """A check, and the schema of the values that it takes, so that the two stand side by side."""

    check: Check
    schema: Any
    """A schema, or a type whose schema it has."""

    def __call__(self, value: Any) -> Any:
        """Check a value. See `structure.Check`."""
        return self.check(value)


def shaped(schema: Any) -> Callable[[Check], Shaped]:
    """Return a decorator that gives a check its schema."""
    return lambda check: Shaped(check, schema)


@attrs.frozen
class Param:
    """One field of a body or query that a route reads by hand, beside the code that reads it."""

    schema: Any
    """A schema, or a type whose schema it has."""
    required: bool = False


Fields = Mapping[str, Param]
"""The fields of a body or query that a route reads by hand, by name."""


class Schemas:
    """The named schemas of one document. A class is described once, under its name, and referred to."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {"Json": JSON}
        self._classes: dict[str, Any] = {}

    def of(self, type_: Any) -> Schema:
        """Return the schema of a type: a class, an annotation, or a mapping that is a schema or `Fields`.

        Raises:
            TypeError: there is none, or the check of a field has none.
        """
        if isinstance(type_, Mapping):
            return self._mapping(type_)
        if isinstance(type_, AnyOf):
            options = [self.of(one) for one in type_.types]
            return options[0] if len(options) == 1 else {"anyOf": options}
        if plain := _PLAIN.get(type_) if type_.__hash__ else None:
            return dict(plain)
        if is_typeddict(type_) or (isinstance(type_, type) and attrs.has(type_)):
            return self._named(type_)
        return self._annotation(type_)

    def properties(self, cls: Any) -> tuple[dict[str, Schema], list[str]]:
        """Return the schema of each field of an attrs class or of `Fields`, and the names of those that are required."""
        if isinstance(cls, Mapping):
            fields = {name: self.of(field.schema) for name, field in cls.items()}
            return fields, [name for name, field in cls.items() if field.required]
        properties, required = {}, []
        for field in attrs.fields(cls):
            if "check" not in field.metadata:  # a class that Relay writes and never reads
                properties[field.name] = self.of(field.type)
                required.append(field.name)
                continue
            key, check = field.metadata["key"] or field.name, field.metadata["check"]
            if not isinstance(check, Shaped):
                raise TypeError(f"the check of {cls.__name__}.{field.name} needs a schema: make it a Shaped")
            properties[key] = self.of(check.schema)
            if field.default is attrs.NOTHING:
                required.append(key)
            elif isinstance(field.default, (str, int)) and "$ref" not in properties[key]:
                properties[key]["default"] = field.default
        return properties, required

    def _mapping(self, given: Mapping[str, Any]) -> Schema:
        if all(isinstance(value, Param) for value in given.values()):
            return _object(*self.properties(given))
        described = dict(given)
        if "properties" in described:
            described["properties"] = {name: self.of(inner) for name, inner in described["properties"].items()}
        if "items" in described:
            items = described["items"]
            # A list is a tuple, as JSON Schema wrote it up to draft 7, which AsyncAPI 3.0 uses.
            described["items"] = [self.of(one) for one in items] if isinstance(items, list) else self.of(items)
        return described

    def _named(self, cls: Any) -> Schema:
        name = cls.__name__
        if self._classes.setdefault(name, cls) is not cls:
            raise TypeError(f"two classes have the name {name}: {cls} and {self._classes[name]}")
        if name not in self.named:
            self.named[name] = {}  # a class that contains itself finds its name
            if is_typeddict(cls):
                hints = get_type_hints(cls, include_extras=True)
                described = _object(
                    {key: self.of(_bare(hint)) for key, hint in hints.items()},
                    [key for key, hint in hints.items() if _is_required(cls, key, hint)],
                )
            else:
                described = _object(*self.properties(attrs.resolve_types(cls)))
            self.named[name] = {"description": inspect.cleandoc(cls.__doc__ or name), **described}
        return {"$ref": f"#/components/schemas/{name}"}

    def _annotation(self, type_: Any) -> Schema:
        origin, arguments = get_origin(type_), get_args(type_)
        if origin is Annotated:
            return {**self.of(arguments[0]), **arguments[1]}
        if origin is Literal:
            kinds = {_PLAIN[type(value)]["type"] for value in arguments}
            return {"type": kinds.pop(), "enum": list(arguments)} if len(kinds) == 1 else {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return _any_of([self.of(one) for one in arguments])
        if origin in (list, Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        raise TypeError(f"there is no schema of {type_!r}")


def reference(name: str) -> Schema:
    """Return a reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    described: Schema = {"type": "object", "properties": properties}
    if required:
        described["required"] = sorted(required)
    return described


def _any_of(options: list[Schema]) -> Schema:
    if all(option.keys() == {"type"} for option in options):
        return {"type": [option["type"] for option in options]}
    null = {"type": "null"}
    if null in options and len(options) == 2:
        [other] = [option for option in options if option != null]
        if isinstance(other.get("type"), str) and "enum" not in other:
            return {**other, "type": [other["type"], "null"]}
    return {"anyOf": options}


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) in (NotRequired, Required) else hint


def _is_required(cls: Any, key: str, hint: Any) -> bool:
    # With postponed annotations the class itself cannot tell.
    return key in cls.__required_keys__ and get_origin(hint) is not NotRequired
