"""Registered agents as rows and back: the profile as JSON, its secret sealed and apart."""

from collections.abc import Callable

import msgspec

from aicp.errors import SettingsError
from aicp.model.agent import AgentAuth, AgentProfile

Cipher = Callable[[bytes], bytes]

_profile_decoder = msgspec.json.Decoder(AgentProfile)
_auth_decoder = msgspec.json.Decoder(AgentAuth)


class AgentRow(msgspec.Struct, frozen=True):
    """An agent as it is stored.

    Attributes:
        profile: JSON, without the secret.
        sealed_auth: The secret as `seal` made it; None when it has none.
    """

    profile: str
    sealed_auth: bytes | None


def encode_agent(profile: AgentProfile, seal: Cipher | None) -> AgentRow:
    """An agent as a row.

    Raises:
        SettingsError: It has a secret, and there is no key to seal it with.
    """
    told = msgspec.json.encode(msgspec.structs.replace(profile, auth=None)).decode()
    return AgentRow(told, _sealed(profile, seal))


def decode_agent(row: AgentRow, unseal: Cipher | None) -> AgentProfile:
    """An agent from its row.

    Raises:
        SettingsError: Its secret cannot be unsealed.
        msgspec.MsgspecError: It is not what was written, or of a newer version.
    """
    profile = _profile_decoder.decode(row.profile)
    if row.sealed_auth is None:
        return profile
    try:
        auth = _auth_decoder.decode((unseal or _refuse)(row.sealed_auth))
    except ValueError as error:
        raise SettingsError(
            f"The secret of agent '{profile.agent_id}' cannot be unsealed ({error}): set AICP_SECRET_KEY to the "
            "key it was sealed with, or remove the agent."
        ) from error
    return msgspec.structs.replace(profile, auth=auth)


def _sealed(profile: AgentProfile, seal: Cipher | None) -> bytes | None:
    if profile.auth is None:
        return None
    if seal is None:
        raise SettingsError(
            f"The secret of agent '{profile.agent_id}' cannot be recorded without a key to seal it: set "
            "AICP_SECRET_KEY."
        )
    return seal(msgspec.json.encode(profile.auth))


def _refuse(_: bytes) -> bytes:
    message = "there is no key"
    raise ValueError(message)
