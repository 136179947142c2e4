"""For people who write an agent: declare capabilities, serve them, be known to AICP."""

from aicp.agent.agent import Agent
from aicp.agent.handler import Context
from aicp.agent.loading import load_agent
from aicp.agent.options import AgentOptions
from aicp.agent.run import run_agent
from aicp.agent.served import ServedAgent
from aicp.model.wire import TaskFailed

AgentFailure = TaskFailed
"""The same error under an older name."""

__all__ = [
    "Agent",
    "AgentFailure",
    "AgentOptions",
    "Context",
    "ServedAgent",
    "TaskFailed",
    "load_agent",
    "run_agent",
]
