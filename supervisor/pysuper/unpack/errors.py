"""What goes wrong, in words for the user: one line, whatever the archive has in its names."""

from __future__ import annotations

SHOWN_NAME = 240


class UnpackError(Exception):
    """What is wrong, in words for the user: a line that may be shown as it stands."""

    exit_code = 1


class LimitExceeded(UnpackError):
    """The archive is larger, in one way or another, than it may be; nothing else need be wrong with it."""

    exit_code = 3  # argparse has 2


class MissingError(UnpackError):
    """A directory or file that has to be there already is not."""


def shown(name: bytes) -> str:
    """Return a name from the archive made safe for a terminal or a log, and not overly long."""
    text = "".join(map(_shown_character, name.decode("utf-8", "surrogateescape"))) or "(no name)"
    return text if len(text) <= SHOWN_NAME else text[:SHOWN_NAME] + "..."


class Naming:
    """A context that puts a name before whatever goes wrong in it."""

    __slots__ = ("_name",)

    def __init__(self, name: bytes) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise UnpackError(f"{shown(self._name)}: {error.strerror or error}") from None
        if isinstance(error, UnpackError):
            raise type(error)(f"{shown(self._name)}: {error}") from None


def _shown_character(char: str) -> str:
    # Written out, because the codec "unicode_escape" would be imported at its first use.
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, see PEP 383
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
