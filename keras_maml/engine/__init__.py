"""The way of one meta-batch: tasks, inner steps, gradient, update."""
