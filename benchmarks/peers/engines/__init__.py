"""Engines that run chains of steps: ours and others, each used as its own documentation asks for."""
