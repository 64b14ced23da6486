"""Structures untrusted values as attrs classes, with cattrs: nothing is converted in silence, and every mistake is reported.

By itself cattrs converts "7" to 7 and 1.5 to 1, and runs validators only once all fields are structured, up to the first
that fails. Here each field has one check of its own, so that cattrs collects the mistakes of all fields of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
)
from cattrs.gen import make_dict_structure_fn, override

T = TypeVar("T")

Check = Callable[[Any], Any]
"""Returns the value of a field as it is used, without guessing, or raises ValueError with what it must be."""
Conflicts = Callable[[Any], Iterable[tuple[str, str]]]
"""Yields what is wrong between the fields of an instance, as pairs of field and message. `a.b` is b in the field a."""
Entry = Callable[[str], type[Any]]
"""Returns the class of the value under a key, or raises ValueError if there can be no such key."""


@attrs.frozen
class Mistake:
    """One thing that is wrong with a value."""

    path: tuple[str, ...]
    """The keys that lead to it; () is the value itself."""
    message: str


class StructureError(Exception):
    """A value does not describe an instance of a class; `mistakes` has everything that is wrong with it."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(f"{'.'.join(mistake.path)} {mistake.message}" for mistake in self.mistakes))


@attrs.frozen
class Rules:
    """How the fields of every class of a structure are read. Defaults of fields are not checked."""

    check_of: Callable[[attrs.Attribute[Any]], Check]
    """Returns the check of a field whose type is not an attrs class."""
    not_a_table: Callable[[object, tuple[str, ...]], str]
    """Returns the message about a value at this path that should be a mapping."""
    key_of: Callable[[attrs.Attribute[Any]], str] = lambda field: field.name
    """Returns the key of a field in the untrusted value."""
    unknown_key: Callable[[tuple[str, ...]], str] | None = None
    """Returns the message about an unknown key at this path. None: unknown keys are ignored."""
    conflicts: Conflicts = lambda _: ()
    entry_of: Callable[[attrs.Attribute[Any]], Entry | None] = lambda _: None
    """Returns, for a field that is a table with free keys, the function from a key to the class of its value."""


class Structurer:
    """Structures values as attrs classes by one set of rules. Classes are compiled when they are first used."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._converter = Converter(detailed_validation=True)
        self._converter.register_structure_hook_factory(attrs.has, self._class_hook)

    def structure(self, value: object, cls: type[T]) -> T:
        """Return the instance of `cls` that an untrusted value describes.

        Raises:
            StructureError: with every mistake, in the order of the fields; unknown keys come last.
        """
        try:
            return self._converter.structure(value, cls)
        except (BaseValidationError, _NotATableError) as error:
            raise StructureError(self._mistakes(error, ())) from None

    def _class_hook(self, cls: type[Any]) -> Callable[[Any, Any], Any]:
        fields = attrs.fields(attrs.resolve_types(cls))
        overrides: dict[str, Any] = {
            field.name: override(
                rename=self._rules.key_of(field),
                struct_hook=None if attrs.has(field.type) else _without_type(self._check_of(field)),
            )
            for field in fields
        }
        fill = make_dict_structure_fn(cls, self._converter, _cattrs_detailed_validation=True, **overrides)
        known = {self._rules.key_of(field) for field in fields}

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise _NotATableError(value)
            errors: list[Exception] = []
            instance = None
            try:
                instance = fill(value, cls)
            except ClassValidationError as group:
                errors += group.exceptions
            else:
                errors += (_conflict(name, message, cls) for name, message in self._rules.conflicts(instance))
            if self._rules.unknown_key is not None and (unknown := value.keys() - known):
                errors.append(ForbiddenExtraKeysError(None, cls, unknown))
            if errors:
                raise ClassValidationError(f"While structuring {cls.__name__}", errors, cls)
            return instance

        return structure

    def _check_of(self, field: attrs.Attribute[Any]) -> Check:
        entry = self._rules.entry_of(field)
        return self._rules.check_of(field) if entry is None else partial(self._entries, entry)

    def _entries(self, entry: Entry, value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _NotATableError(value)
        entries, errors = {}, []
        for key, inner in value.items():
            try:
                entries[key] = self._converter.structure(inner, entry(key))
            except (BaseValidationError, _NotATableError, ValueError) as error:
                errors.append((key, error))
        if errors:
            raise _EntriesError(errors)
        return entries

    def _mistakes(self, error: Exception, path: tuple[str, ...]) -> Iterable[Mistake]:
        match error:
            case ClassValidationError():
                for inner in error.exceptions:
                    field = _field_of(inner, error.cl)
                    yield from self._mistakes(inner, path if field is None else (*path, self._rules.key_of(field)))
            case ForbiddenExtraKeysError() if self._rules.unknown_key is not None:
                for key in sorted(error.extra_fields):
                    yield Mistake((*path, key), self._rules.unknown_key((*path, key)))
            case _EntriesError():
                for entry, inner in error.errors:
                    yield from self._mistakes(inner, (*path, entry))
            case _ConflictError():
                yield Mistake((*path, *error.inner), str(error))
            case _NotATableError():
                yield Mistake(path, self._rules.not_a_table(error.value, path))
            case KeyError():
                yield Mistake(path, "is required")
            case ValueError():
                yield Mistake(path, str(error))
            case _:
                raise error  # a defect of a check: every mistake of a client is a ValueError


class _NotATableError(Exception):
    """A value that should describe an instance is not a mapping."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


class _EntriesError(Exception):
    """Some values of a table with free keys are wrong."""

    def __init__(self, errors: Sequence[tuple[str, Exception]]) -> None:
        super().__init__()
        self.errors = errors


class _ConflictError(ValueError):
    """A value conflicts with another one. `inner` are the keys that lead to it from its field."""

    def __init__(self, message: str, inner: Sequence[str]) -> None:
        super().__init__(message)
        self.inner = inner


def _conflict(name: str, message: str, cls: type[Any]) -> Exception:
    field, *inner = name.split(".")
    return _at(field, _ConflictError(message, inner), cls)


def _without_type(check: Check) -> Callable[[Any, Any], Any]:
    return lambda value, _: check(value)


def _at(name: str, error: Exception, cls: type[Any]) -> Exception:
    """Return the error with the note by which cattrs tells which field of a class it is about."""
    error.__notes__ = [AttributeValidationNote(f"{cls.__name__}.{name}", name, None)]
    return error


def _field_of(error: BaseException, cls: type[Any]) -> attrs.Attribute[Any] | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            field: attrs.Attribute[Any] = getattr(attrs.fields(cls), note.name)
            return field
    return None
