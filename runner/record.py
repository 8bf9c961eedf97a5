"""`NamedTuple` as in typing, for modules that every step loads: typing and the classes made by it cost as much as starting Python."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Maker(type):
        """Turns the annotations of a class body into the fields of a tuple."""

        def __new__(cls, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            for index, field in enumerate(fields):
                body[field] = property(lambda self, index=index: tuple.__getitem__(self, index))
            return super().__new__(cls, name, bases, {"__slots__": (), "_fields": fields, "_field_defaults": defaults, **body})

    class NamedTuple(tuple, metaclass=_Maker):
        """An immutable record with named fields, which is also a tuple of them: what of typing.NamedTuple is used here."""

        def __new__(cls, *values, **named):
            """Make one from its fields by place or name; TypeError for one too many or too few."""
            if len(values) > len(cls._fields):
                raise TypeError(f"{cls.__name__} takes {len(cls._fields)} fields, not {len(values)}")
            if len(values) < len(cls._fields):
                missing = cls._fields[len(values) :]
                given = {**cls._field_defaults, **named}
                try:
                    values += tuple(given[field] for field in missing)
                except KeyError as e:
                    raise TypeError(f"{cls.__name__} needs {e.args[0]}") from None
                if not named.keys() <= set(missing):
                    raise TypeError(f"{cls.__name__} does not take {', '.join(named.keys() - set(missing))}")
            elif named:
                raise TypeError(f"{cls.__name__} does not take {', '.join(named)}")
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"
