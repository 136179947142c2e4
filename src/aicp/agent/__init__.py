"""For people who write an agent: declare capabilities, serve them, be known to AICP."""

from aicp.agent.agent import Agent
from aicp.agent.handler import AgentFailure, Context
from aicp.agent.loading import load_agent
from aicp.agent.options import AgentOptions
from aicp.agent.run import run_agent
from aicp.agent.served import ServedAgent

__all__ = ["Agent", "AgentFailure", "AgentOptions", "Context", "ServedAgent", "load_agent", "run_agent"]
