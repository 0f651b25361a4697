"""Times a step of one peer library; prints one JSON line.

    PYTHON benchmarks/peer.py DIR PEER WORKLOAD SECONDS DEVICE CHANGES

`PYTHON` has the peer, and `DIR` holds the peers' modules: `peers.peer_class`,
in `workloads` the problems, their weights and their meta-batches, and in
`torch_common` what peers of PyTorch share. `PEER` is one of these, or
"parallel_metalearn". `DEVICE` is "gpu", or "cpu" for two of its cores.
`CHANGES` is a JSON object of what
differs from the problem, such as `{"meta_batch": 8}`; `first_order` may be
among it. Imports nothing of this project, which `PYTHON` does not have.
"""

import dataclasses
import json
import os
import statistics
import sys
import time


def main(folder, name, workload, seconds, device, changes):
    set_device(device)
    sys.path.insert(0, folder)
    import workloads

    changes = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in json.loads(changes).items()
    }
    first_order = changes.pop("first_order", False)
    spec = dataclasses.replace(workloads.WORKLOADS[workload], **changes)
    peer = peer_class(name)(
        spec, workloads.make_weights(spec), first_order=first_order
    )
    is_torch = hasattr(peer, "net")
    moves = is_torch and device == "gpu"
    if moves:
        peer.net.to("cuda")

    def load(seed):
        batch = peer.load(workloads.make_batch(spec, seed))
        return [t.to("cuda") for t in batch] if moves else batch

    batches = [load(seed) for seed in (1, 2)]
    start_memory = memory("VmRSS")
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
    line = {
        "peer": name,
        "workload": workload,
        "first_order": first_order,
        "median_s_per_step": median,
        "compile_s": first - median,
        "start_rss_mb": start_memory,
        "peak_rss_mb": memory("VmHWM"),
        "first_loss": first_loss,
    }
    if device == "gpu":
        line["peak_device_mb"] = peak_bytes(is_torch) / 2**20
    print(json.dumps(line))


def peer_class(name):
    if name == "parallel_metalearn":
        # Python finds it beside this file.
        from parallel_metalearn import Peer

        return Peer
    import peers

    return peers.peer_class(name)


def set_device(device):
    """Tells the libraries, before they are imported, what they may use."""
    if device == "gpu":
        os.environ["JAX_PLATFORMS"] = "cuda"
        # What a peer would else reserve or be kept from.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = "2"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def memory(field):
    """`VmRSS`, what the process holds, or `VmHWM`, its peak; in MiB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise KeyError(field)


def peak_bytes(is_torch):
    """The most memory of the GPU that was in use."""
    if is_torch:
        import torch

        return torch.cuda.max_memory_allocated()
    import jax

    return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]


if __name__ == "__main__":
    main(*sys.argv[1:])
