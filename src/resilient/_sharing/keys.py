"""What the state of one key of a PerKey is called in a store.

A user's key may be an address or a secret, and as long as it likes: a store sees
a hash of it. It is the same in all processes, unlike `hash`, so the key has to be
of a type that has one spelling. With `plain_keys` a store sees the key itself, as
Python writes it.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b
from typing import Any, Final

from resilient._runtimes.runtime import Sentinel

__all__ = ["key_hash", "key_text"]

_SIZE: Final = 16
"""Bytes: with a billion keys, two of them are the same with a chance of 1e-21."""

_LONGEST: Final = 200
"""Characters of a plain key; a longer one is hashed, for it stands in every ask."""


def key_hash(keys: tuple[Hashable, ...], salt: bytes) -> str:
    """Return a hash of the keys of one PerKey, or of several in each other.

    NB: no secret, for who knows the salt can try keys out.

    Args:
        keys: The keys; subclasses count as what they are equal to.
        salt: At most 64 bytes; another salt makes other hashes.

    Raises:
        TypeError: A key is no str, bytes, int or tuple of these.

    Source: RFC 7693, BLAKE2, of which this is the keyed mode.
    """
    return blake2b(_spell(keys), digest_size=_SIZE, key=salt).hexdigest()


def key_text(keys: tuple[Hashable, ...], salt: bytes) -> str:
    """Return the keys as Python writes them, in ASCII; long ones hashed.

    No two different ones are written alike.

    Args:
        keys: As of `key_hash`.
        salt: As of `key_hash`.

    Raises:
        TypeError: As of `key_hash`.
    """
    text = ",".join(_write(key) for key in keys)
    if len(text) > _LONGEST:
        return f"#{key_hash(keys, salt)}"
    # NB: a brace that closes ends what a cluster finds the slot by.
    return text.replace("}", r"\x7d")


def _write(key: Any) -> str:
    if _compares_as(key, tuple):
        return f"({''.join(f'{_write(part)},' for part in key)})"
    if _compares_as(key, str):
        return ascii(str.__str__(key))
    if _compares_as(key, bytes):
        return ascii(b"%b" % key)
    if _compares_as(key, int) and key.bit_length() < 64:
        return str(int.__index__(key))
    # An int of any length, or what is refused.
    return f"<{_spell(key).decode()}>"


def _spell(key: Any) -> bytes:
    """Spell a key so that no two different ones are spelled alike."""
    if _compares_as(key, tuple):
        parts = [_spell(part) for part in key]
        return b"t%d:%b" % (len(parts), b"".join(parts))
    if _compares_as(key, str):
        text = str.encode(key, "utf-8", "surrogatepass")
        return b"s%d:%b" % (len(text), text)
    if _compares_as(key, bytes):
        return b"b%d:%b" % (len(key), key)
    if _compares_as(key, int):
        # NB: in base 16, in which it may have any number of digits.
        return b"i%b;" % hex(key).encode()
    if isinstance(key, Sentinel):
        # What keys share for which a PerKey has no room.
        return b"o"
    raise TypeError(
        "`key` must be a str, bytes, int or tuple of these where a PerKey has shared"
        f" policies, got an object of {type(key)}: all processes must spell it alike"
    )


def _compares_as(key: object, kind: type[object]) -> bool:
    return isinstance(key, kind) and type(key).__eq__ is kind.__eq__
