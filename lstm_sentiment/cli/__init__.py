"""Shared by all commands: exit codes, terminal output, help formatting."""
