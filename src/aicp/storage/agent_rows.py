"""Registered agents, and orders for them, as rows and back: a profile as JSON, its secret sealed and apart."""

from collections.abc import Callable

import msgspec

from aicp.errors import RecordDamaged, SettingsError
from aicp.model.agent import AgentAuth, AgentProfile
from aicp.model.notice import Order
from aicp.ports import Ordered
from aicp.storage.row_checksums import UNREADABLE, checksum, described, is_intact_stamped, stamped, with_more

Cipher = Callable[[bytes], bytes]

_profile_decoder = msgspec.json.Decoder(AgentProfile)
_auth_decoder = msgspec.json.Decoder(AgentAuth)


class _More(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the column `more` of an agent has that this version reads; it passes over what it does not know.

    Attributes:
        needs: See `AgentProfile`.
    """

    needs: int = 0


_NOTHING_MORE = _More()
_more_decoder = msgspec.json.Decoder(_More)

AGENT_COLUMNS = "agent_id, profile, sealed_auth, more, saved_at, checksum"
"""The columns of a `StoredAgent`, in the order of its fields."""


class AgentRow(msgspec.Struct, frozen=True):
    """An agent as it is stored.

    Attributes:
        profile: JSON, without the secret.
        sealed_auth: The secret as `seal` made it; None when it has none.
        more: JSON of what the profile has no field for; None for nothing.
    """

    profile: str
    sealed_auth: bytes | None
    more: str | None = None

    def checksum(self, agent_id: str, saved_at: str) -> int:
        """Of the row of an agent that is saved now."""
        return stamped(checksum(*with_more((agent_id, self.profile, self.sealed_auth), self.more)), saved_at)


class StoredAgent(msgspec.Struct, frozen=True):
    """An agent's row as a database returns it; `saved_at` is RFC 3339 in UTC."""

    agent_id: str
    profile: str
    sealed_auth: bytes | None
    more: str | None
    saved_at: str
    checksum: int | None

    def decode(self, unseal: Cipher | None) -> AgentProfile:
        """The agent.

        Raises:
            RecordDamaged: The row is damaged, or of a newer version.
            SettingsError: The agent's secret cannot be unsealed.
        """
        return self._decode(AgentRow(self.profile, self.sealed_auth, self.more), unseal)

    def decode_public(self) -> AgentProfile:
        """The agent without its secret.

        Raises:
            RecordDamaged: The row is damaged, or of a newer version.
        """
        return self._decode(AgentRow(self.profile, None, self.more), None)

    def verify(self) -> None:
        """Compare the row with its checksum. One without is decoded: what is intact may still be of a newer version.

        Raises:
            RecordDamaged: It is damaged.
        """
        if self.checksum is None:
            self.decode_public()
        self._check()

    def _check(self) -> None:
        values = with_more((self.agent_id, self.profile, self.sealed_auth), self.more)
        if not is_intact_stamped(self.checksum, self.saved_at, *values):
            raise RecordDamaged("registrations", described(self.agent_id), "its checksum is another")

    def _decode(self, row: AgentRow, unseal: Cipher | None) -> AgentProfile:
        self._check()
        try:
            return decode_agent(row, unseal)
        except UNREADABLE as error:
            why = f"this version of AICP cannot read it ({error})"
            raise RecordDamaged("registrations", described(self.agent_id), why) from error


class StoredOrder(msgspec.Struct, frozen=True):
    """The row of an operator's order as a database returns it; `ordered_at` is RFC 3339 in UTC."""

    agent_id: str
    subject: str
    command: str
    ordered_at: str
    checksum: int | None

    def decode(self, number: int) -> Ordered:
        """The order, with a number that tells it from another one.

        Raises:
            RecordDamaged: The row is damaged, or of a newer version.
        """
        if not is_intact_stamped(self.checksum, self.ordered_at, self.agent_id, self.subject, self.command):
            raise RecordDamaged("agent_orders", described(self.agent_id, self.subject), "its checksum is another")
        try:
            return Ordered(self.agent_id, Order(self.command), number)
        except ValueError as error:
            why = f"this version of AICP cannot read it ({error})"
            raise RecordDamaged("agent_orders", described(self.agent_id, self.subject), why) from error


def order_checksum(agent_id: str, order: Order, ordered_at: str) -> int:
    """Of the row of an order that is recorded now."""
    return stamped(checksum(agent_id, order.subject, order.value), ordered_at)


def encode_agent(profile: AgentProfile, seal: Cipher | None) -> AgentRow:
    """An agent as a row.

    Raises:
        SettingsError: It has a secret, and there is no key to seal it with.
    """
    told = {name: value for name, value in msgspec.structs.asdict(profile).items() if name != "needs"}
    more = _More(profile.needs)
    return AgentRow(
        msgspec.json.encode({**told, "auth": None}).decode(),
        _sealed(profile, seal),
        None if more == _NOTHING_MORE else msgspec.json.encode(more).decode(),
    )


def decode_agent(row: AgentRow, unseal: Cipher | None) -> AgentProfile:
    """An agent from its row.

    Raises:
        SettingsError: Its secret cannot be unsealed.
        msgspec.MsgspecError: It is not what was written, or of a newer version.
    """
    profile = _profile_decoder.decode(row.profile)
    if row.more is not None:
        profile = msgspec.structs.replace(profile, needs=_more_decoder.decode(row.more).needs)
    if row.sealed_auth is None:
        return profile
    try:
        auth = _auth_decoder.decode((unseal or _refuse)(row.sealed_auth))
    except UNREADABLE as error:
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
