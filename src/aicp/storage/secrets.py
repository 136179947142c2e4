"""Seals what must not lie in a database in the clear."""

import functools
from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken


class Secrets:
    """Encrypts and authenticates with Fernet (AES-128-CBC, HMAC-SHA-256). Source: https://github.com/fernet/spec.

    Args:
        key: Gives the key, 32 bytes in URL-safe base64; asked when it is first needed.
    """

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    def seal(self, secret: bytes) -> bytes:
        """What only this key turns back.

        Raises:
            SettingsError: There is no usable key.
        """
        return self._fernet.encrypt(secret)

    def unseal(self, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            ValueError: It was not sealed with this key, or has changed since.
            SettingsError: There is no usable key.
        """
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            message = "it was sealed with another key, or has changed since"
            raise ValueError(message) from None

    @functools.cached_property
    def _fernet(self) -> Fernet:
        return Fernet(self._key())
