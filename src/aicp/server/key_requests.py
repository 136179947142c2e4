"""What can be wrong with a request for a key, all of it at once."""

import math
from collections.abc import Iterator

from aicp.errors import Fault, InvalidInput
from aicp.model.access import (
    ALLOWED_CAPABILITIES_MAX,
    CONCURRENCY_MAX,
    EVERY_TENANT,
    GRANTABLE,
    KEY_NAME_CHARS_MAX,
    LIFE_S_MAX,
    QUEUE_MAX,
    RATE_MAX,
    TENANT_PATTERN,
    KeyLimits,
    KeyRequest,
    Scope,
)
from aicp.model.validation import is_capability_ref


def check_request(request: KeyRequest) -> None:
    """Make sure that a key can be made as it was asked for.

    Raises:
        InvalidInput: With every fault and its place.
    """
    faults = [
        *_name_faults(request.name),
        *_tenant_faults(request),
        *_scope_faults(request.scopes),
        *_life_faults(request.expires_in_s),
        *_capability_faults(request.capabilities),
        *_limit_faults(request.limits),
    ]
    if faults:
        raise InvalidInput(faults)


def _name_faults(name: str) -> Iterator[Fault]:
    if not (0 < len(name) <= KEY_NAME_CHARS_MAX and name.isprintable()):
        yield Fault("/name", f"must be 1 to {KEY_NAME_CHARS_MAX} printable characters")


def _tenant_faults(request: KeyRequest) -> Iterator[Fault]:
    tenant = request.tenant
    if tenant not in {None, EVERY_TENANT} and not TENANT_PATTERN.fullmatch(tenant or ""):
        told = "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit, or be * for every tenant"
        yield Fault("/tenant", told)
    if Scope.METRICS_READ in request.scopes and tenant != EVERY_TENANT:
        yield Fault("/scopes", f"'{Scope.METRICS_READ}' tells of every tenant: ask for the tenant '{EVERY_TENANT}'")


def _scope_faults(scopes: tuple[str, ...]) -> Iterator[Fault]:
    if not scopes:
        yield Fault("/scopes", f"must name at least one: {', '.join(GRANTABLE)}")
    for index, scope in enumerate(scopes[: len(GRANTABLE) + 1]):
        if scope not in GRANTABLE:
            yield Fault(f"/scopes/{index}", f"'{scope[:80]}' is none: choose from {', '.join(GRANTABLE)}")
    if len(scopes) > len(GRANTABLE):
        yield Fault("/scopes", f"names {len(scopes)}; there are {len(GRANTABLE)}")


def _life_faults(expires_in_s: float | None) -> Iterator[Fault]:
    if expires_in_s is not None and not 0 < expires_in_s <= LIFE_S_MAX:
        yield Fault("/expires_in_s", f"must be more than 0 and at most {LIFE_S_MAX:.0f} seconds, which is ten years")


def _capability_faults(capabilities: tuple[str, ...] | None) -> Iterator[Fault]:
    if capabilities is None:
        return
    if not 1 <= len(capabilities) <= ALLOWED_CAPABILITIES_MAX:
        told = f"must be 1 to {ALLOWED_CAPABILITIES_MAX}, not {len(capabilities)}; leave it out for any capability"
        yield Fault("/capabilities", told)
    for index, capability in enumerate(capabilities[:ALLOWED_CAPABILITIES_MAX]):
        if not is_capability_ref(capability):
            told = f"'{capability[:80]}' must be a dotted name like image.label or image.label@2"
            yield Fault(f"/capabilities/{index}", told)


def _limit_faults(limits: KeyLimits) -> Iterator[Fault]:
    rate = limits.rate_per_s
    if rate is not None and not (math.isfinite(rate) and 0 < rate <= RATE_MAX):
        yield Fault("/limits/rate_per_s", f"must be more than 0 and at most {RATE_MAX:.0f} requests a second")
    for field, value, most in (
        ("concurrency", limits.concurrency, CONCURRENCY_MAX),
        ("queue", limits.queue, QUEUE_MAX),
    ):
        if value is not None and not 1 <= value <= most:
            yield Fault(f"/limits/{field}", f"must be 1 to {most}")
