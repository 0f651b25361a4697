"""What an evaluation keeps of each episode."""

import zlib

import numpy as np
import tensorflow as tf

# What there is a value of for each inner step, of which only the first counts.
_FIRST = ("gradient_norm", "step_length")
_KEPT = ("scores", "other", "n_way", "finite", "counts", "complete", *_FIRST)


class EpisodeColumns:
    """Collects a few numbers for each episode.

    Attributes:
        count: int, the number of episodes.
        bins: array `(steps + 1, BINS, 3)`, the sums over episodes that are
            finite. `None` without a classifier.
    """

    def __init__(self):
        self.count = 0
        self.bins = None
        self._columns = {}

    def add(self, results, x, y):
        """Adds the episodes of a meta-batch.

        Args:
            results: dict of arrays, the result of an `EpisodeScorer`.
            x: dict of tensors, the inputs of the meta-batch.
            y: structure of tensors, the targets of its queries.
        """
        count = len(results["finite"])
        columns = {key: results[key] for key in _KEPT if key in results}
        for key in _FIRST:
            columns[key] = results[key][:, :1]
        numbers = np.arange(self.count, self.count + count)
        if "episode" in x:
            numbers = np.asarray(x["episode"])
        columns["episode"] = numbers
        columns["checksum"] = _checksums([x["support_y"], y], count)
        if "bins" in results:
            self._add_bins(results["bins"], results["finite"])
            first = results["bins"][:, 0].sum(1)
            with np.errstate(invalid="ignore"):
                columns["before"] = first[:, 2] / first[:, 0]
        for key, values in columns.items():
            self._columns.setdefault(key, []).append(values)
        self.count += count

    def last_means(self):
        """Returns the mean scores of the last meta-batch, `(names,)`."""
        scores, finite = (self._columns[k][-1] for k in ("scores", "finite"))
        return scores[finite, -1].mean(0) if finite.any() else []

    def arrays(self):
        """Returns a dict of arrays, whose first axis is the episode."""
        return {k: np.concatenate(v) for k, v in self._columns.items()}

    def _add_bins(self, bins, finite):
        sums = bins[finite].sum(0, dtype=np.float64)
        self.bins = sums if self.bins is None else self.bins + sums


def _checksums(targets, count):
    """Returns a checksum of the targets of each task, `(count,)`."""
    sums = np.zeros(count, np.uint32)
    for target in tf.nest.flatten(targets):
        for i, values in enumerate(np.asarray(target)):
            sums[i] = zlib.crc32(np.ascontiguousarray(values), int(sums[i]))
    return sums
