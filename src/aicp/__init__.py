"""Keeps work going when AI agents fail: the public names; adapters load when they are used."""

from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.errors import (
    AgentNotFound,
    AicpError,
    AllAgentsFailed,
    ChainNotFound,
    CircuitBreakerOpen,
    DeadlineExceeded,
    IdempotencyConflict,
    InvalidAgent,
    InvalidChain,
    InvalidInput,
    InvalidTask,
    NoAgentAvailable,
    NoCapableAgent,
    QueueFull,
    RoutingError,
    TaskNotFound,
)
from aicp.model.agent import AgentAuth, AgentCapability, AgentProfile, Capability
from aicp.model.chain import ChainResult, ChainSpec, FailurePolicy, TaskChain
from aicp.model.outcome import Outcome, TaskError
from aicp.model.reference import Reference
from aicp.model.task import Attempt, OnFailure, Priority, Task, TaskResult, TaskStatus
from aicp.resilience.backoff import Backoff
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitState
from aicp.routing.failover_router import FailoverRouter
from aicp.runtime.node import Node
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.transports.local import TaskFailed
from aicp.version import __version__

__all__ = [
    "AgentAuth",
    "AgentCapability",
    "AgentNotFound",
    "AgentProfile",
    "AicpError",
    "AllAgentsFailed",
    "Attempt",
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
    "DeadlineExceeded",
    "FailoverRouter",
    "FailurePolicy",
    "IdempotencyConflict",
    "InvalidAgent",
    "InvalidChain",
    "InvalidInput",
    "InvalidTask",
    "NoAgentAvailable",
    "NoCapableAgent",
    "Node",
    "OnFailure",
    "Outcome",
    "Priority",
    "QueueFull",
    "Reference",
    "RoutingError",
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
