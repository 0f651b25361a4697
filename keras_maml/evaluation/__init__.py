"""Scores and reports of adapted models."""
