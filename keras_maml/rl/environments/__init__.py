"""Environments: dynamics that tasks share, and distributions of goals."""
