"""Times a step of one peer library on a GPU; prints one JSON line.

    PYTHON benchmarks/accelerator_peer.py DIR PEER WORKLOAD TASKS SECONDS

`PYTHON` has the peer, and `DIR` holds the peers' modules: `peers.peer_class`,
and in `workloads` the problems, their weights and their meta-batches. Imports
nothing of this project, which `PYTHON` does not have.
"""

import json
import os
import statistics
import sys
import time


def main(folder, name, workload, tasks, seconds):
    # What a peer would else reserve or be kept from.
    os.environ["JAX_PLATFORMS"] = "cuda"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    sys.path.insert(0, folder)
    import workloads
    from peers import peer_class

    spec = workloads.WORKLOADS[workload].with_tasks(int(tasks))
    peer = peer_class(name)(spec, workloads.make_weights(spec))
    is_torch = hasattr(peer, "net")
    if is_torch:
        peer.net.to("cuda")

    def load(seed):
        batch = peer.load(workloads.make_batch(spec, seed))
        return [t.to("cuda") for t in batch] if is_torch else batch

    batches = [load(seed) for seed in (1, 2)]
    started = time.perf_counter()
    first_loss = peer.step(batches[0])
    first = time.perf_counter() - started
    times = []
    while len(times) < 5 or time.perf_counter() - started < float(seconds):
        before = time.perf_counter()
        # Waits for the loss.
        peer.step(batches[len(times) % 2])
        times.append(time.perf_counter() - before)
    median = statistics.median(times[1:])
    print(
        json.dumps(
            {
                "peer": name,
                "median_s_per_step": median,
                "compile_s": first - median,
                "peak_device_mb": peak_bytes(is_torch) / 2**20,
                "first_loss": first_loss,
            }
        )
    )


def peak_bytes(is_torch):
    """The most memory of the GPU that was in use."""
    if is_torch:
        import torch

        return torch.cuda.max_memory_allocated()
    import jax

    return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]


if __name__ == "__main__":
    main(*sys.argv[1:])
