"""The steps of one meta-batch: tasks, inner loop, gradient, update."""
