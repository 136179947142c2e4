"""Keeps work going when AI agents fail."""
