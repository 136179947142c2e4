"""Keeps work going when AI agents fail: the public names; adapters load when they are used."""

from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.errors import (
    AccessDenied,
    AgentNotFound,
    AgentReplaced,
    AicpError,
    AllAgentsFailed,
    AttemptTimedOut,
    ChainNotFound,
    CircuitBreakerOpen,
    Conflict,
    DeadlineExceeded,
    Fault,
    ForkedProcess,
    IdempotencyConflict,
    InvalidAgent,
    InvalidChain,
    InvalidInput,
    InvalidTask,
    NewerVersion,
    NoAgentAvailable,
    NoCapableAgent,
    NotFound,
    OwnershipLost,
    QueueFull,
    RecordDamaged,
    RoutingError,
    SettingsError,
    StorageError,
    TaskNotFound,
)
from aicp.model.agent import AgentAuth, AgentCapability, AgentProfile, Capability, Registration
from aicp.model.chain import ChainResult, ChainSpec, FailurePolicy, TaskChain
from aicp.model.endpoint import AddressPolicy
from aicp.model.outcome import Outcome, TaskError
from aicp.model.reference import Reference
from aicp.model.task import Attempt, OnFailure, Priority, Task, TaskResult, TaskStatus
from aicp.model.wire import TaskFailed
from aicp.resilience.backoff import Backoff
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitState
from aicp.routing.failover_router import FailoverRouter
from aicp.runtime.node import Node
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.version import __version__

__all__ = [
    "AccessDenied",
    "AddressPolicy",
    "AgentAuth",
    "AgentCapability",
    "AgentNotFound",
    "AgentProfile",
    "AgentReplaced",
    "AicpError",
    "AllAgentsFailed",
    "Attempt",
    "AttemptTimedOut",
    "Backoff",
    "BreakerPolicy",
    "Capability",
    "ChainNotFound",
    "ChainResult",
    "ChainSpec",
    "CircuitBoard",
    "CircuitBreaker",
    "CircuitBreakerOpen",
    "CircuitState",
    "Conflict",
    "DeadlineExceeded",
    "FailoverRouter",
    "FailurePolicy",
    "Fault",
    "ForkedProcess",
    "IdempotencyConflict",
    "InvalidAgent",
    "InvalidChain",
    "InvalidInput",
    "InvalidTask",
    "NewerVersion",
    "NoAgentAvailable",
    "NoCapableAgent",
    "Node",
    "NotFound",
    "OnFailure",
    "Outcome",
    "OwnershipLost",
    "Priority",
    "QueueFull",
    "RecordDamaged",
    "Reference",
    "Registration",
    "RoutingError",
    "SettingsError",
    "StorageError",
    "Task",
    "TaskChain",
    "TaskCoordinator",
    "TaskError",
    "TaskFailed",
    "TaskNotFound",
    "TaskResult",
    "TaskScheduler",
    "TaskStatus",
    "__version__",
]
