"""The verdict: whether to adapt at all."""
