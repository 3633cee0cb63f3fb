"""API keys: whose request it is. Digests of them are kept, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from shoal.server.store.api_errors import ApiError
from shoal.server.store.database import Database, Setting

NOBODY = ""
"""The owner of everything where no key is asked for."""

_SALT = "key_salt"


class Keys:
    """The keys of a server.

    At rest an owner is a salted scrypt digest of its key; the salt is the data directory's.
    """

    def __init__(self, keys: tuple[str, ...], database: Database) -> None:
        self._owners = {_quick(key): _owner(key, _salt(database)) for key in keys}

    def owner(self, authorization: str | None) -> str:
        """Whose request has this header.

        Raises:
            ApiError: 401: no key, or a wrong one.
        """
        if not self._owners:
            return NOBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("You did not provide an API key. Send Authorization: Bearer KEY.")
        given, found = _quick(key.strip()), None
        for known, owner in self._owners.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(known, given):
                found = owner
        if found is None:
            raise _unauthorized("Incorrect API key provided.")
        return found


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _quick(key: str) -> bytes:
    """For comparison in memory."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _owner(key: str, salt: bytes) -> str:
    data = key.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(data, salt=salt, n=2**14, r=8, p=1, dklen=24).hex()


def _salt(database: Database) -> bytes:
    with database.transaction() as session:
        setting = session.get(Setting, _SALT)
        if setting is None:
            setting = Setting(name=_SALT, value=secrets.token_hex(16))
            session.add(setting)
        return bytes.fromhex(setting.value)
