"""
Values: frozen attrs classes, of which there are many, and whose comparison and representation are written once.

attrs writes and compiles these methods for each class, which takes half of the time that it takes to make one, and
pysuper makes some fifty classes of steps and checks whenever it starts.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, dataclass_transform

import attrs

__all__ = ["Value", "value"]

T = TypeVar("T", bound="Value")


class Value:
    """What attrs would have written, for classes that are made by `value`."""

    __slots__ = ()
    __attrs_attrs__: ClassVar[tuple[attrs.Attribute[Any], ...]]

    def __repr__(self) -> str:
        fields = (f"{a.name}={getattr(self, a.name)!r}" for a in self.__attrs_attrs__)
        return f"{type(self).__qualname__.rpartition('>.')[2]}({', '.join(fields)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, a.name) == getattr(other, a.name) for a in self.__attrs_attrs__)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, a.name) for a in self.__attrs_attrs__)))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def value(cls: type[T]) -> type[T]:
    """Make a frozen class with slots of a subclass of `Value`, whose fields are given by name."""
    return attrs.frozen(cls, kw_only=True, repr=False, eq=False)
