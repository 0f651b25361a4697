"""Tables and pictures of measurements, for docs/performance.md."""

NAMES = {False: "second order", True: "first order"}


def replace(path, name, text):
    """Puts `text` between the two comments of that name in a Markdown file.

    Raises:
        ValueError: if the file has no such place.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{path} has no {begin} ... {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def ratio_table(summary, ours):
    """Ours, the fastest peer, the leanest one, and the ratios."""
    rows = [
        "| workload | order | tasks/s ratio | step | fastest peer | "
        "memory growth | leanest peer | first step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (workload, first_order), libraries in sorted(summary.items()):
        mine = libraries[ours]
        peers = {n: v for n, v in libraries.items() if n != ours}
        ratio = fastest = leanest = "–"
        if peers:
            fast = min(peers, key=lambda n: peers[n]["seconds"])
            lean = min(peers, key=lambda n: peers[n]["growth"])
            ratio = f"**{peers[fast]['seconds'] / mine['seconds']:.2f}**"
            fastest = f"{seconds(peers[fast]['seconds'])}, {fast}"
            leanest = f"{peers[lean]['growth']:.0f} MiB, {lean}"
        rows.append(
            f"| {workload} | {NAMES[first_order]} | {ratio} | "
            f"{seconds(mine['seconds'])} | {fastest} | "
            f"{mine['growth']:.0f} MiB | {leanest} | "
            f"{mine['compile'] + mine['seconds']:.1f} s |"
        )
    return "\n".join(rows)


def seconds(value):
    """A time of milliseconds or seconds as a text."""
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.2f} s"


def plot_ratios(summary, ours, path):
    """Bars: how many tasks a second of each library, ours being 1."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(11, 4), sharey=True, layout="constrained"
    )
    names = sorted({n for libraries in summary.values() for n in libraries})
    names = [ours] + [n for n in names if n != ours]
    for first_order, axis in zip((False, True), axes):
        workloads = [w for w, order in summary if order == first_order]
        for position, workload in enumerate(workloads):
            libraries = summary[workload, first_order]
            present = [n for n in names if n in libraries]
            width = 0.8 / len(present)
            for i, name in enumerate(present):
                speed = libraries[ours]["seconds"] / libraries[name]["seconds"]
                axis.bar(
                    position + (i - (len(present) - 1) / 2) * width,
                    speed,
                    width,
                    color=f"C{names.index(name)}",
                    label=name,
                )
        axis.axhline(1, color="black", linewidth=0.5)
        axis.set_xticks(range(len(workloads)), workloads)
        axis.set_title(NAMES[first_order])
    axes[0].set_ylabel(f"tasks a second, {ours} = 1")
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(
        [handles[n] for n in names if n in handles],
        [n for n in names if n in handles],
        loc="outside lower center",
        ncols=len(names),
        fontsize=8,
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_scaling(results, path):
    """Curves of time and memory by size, and what the arithmetic would be."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        2, len(results), figsize=(11, 6), sharex="col", layout="constrained"
    )
    colors: dict[str, str] = {}
    for column, (flag, curves) in enumerate(results.items()):
        times, memory = axes[:, column]
        for name, points in curves.items():
            values, steps, growths = zip(*points)
            color = colors.setdefault(name, f"C{len(colors)}")
            times.plot(values, steps, "o-", color=color, label=name)
            # A layer's products grow with the square of its width.
            power = 2 if flag == "width" else 1
            work = [steps[-1] * (v / values[-1]) ** power for v in values]
            times.plot(values, work, ":", color=color, linewidth=1)
            memory.plot(values, growths, "o-", color=color, label=name)
        times.set_xscale("log")
        times.set_yscale("log")
        memory.set_ylim(bottom=0)
        memory.set_xlabel(flag.replace("_", " "))
        ticks = sorted({point[0] for c in curves.values() for point in c})
        memory.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=7)
        memory.minorticks_off()
        times.legend(fontsize=8)
    axes[0, 0].set_ylabel("seconds a step (dotted: the arithmetic)")
    axes[1, 0].set_ylabel("memory growth, MiB")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def accuracy_table(results):
    """Accuracies of algorithms on held-out tasks, the best first."""
    rows = [
        "| algorithm | before | after 1 step | after all steps | "
        "outer steps | time of a step | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, line in _by_accuracy(results):
        accuracy, ci95 = line["accuracy"], line["ci95"]
        cells = [
            f"{100 * accuracy[steps]:.1f} ± {100 * ci95[steps]:.1f} %"
            for steps in ("0", "1", _last(line))
        ]
        cells[2] = f"**{cells[2]}** ({_last(line)})"
        rows.append(
            f"| `{name}` | {' | '.join(cells)} | {line['iterations']} | "
            f"{seconds(line['seconds_per_step'])} | "
            f"{line['peak_mib']:.0f} MiB |"
        )
    return "\n".join(rows)


def plot_accuracy(results, path):
    """Bars of the accuracies after all inner steps, with their intervals."""
    from matplotlib import pyplot as plt

    ordered = _by_accuracy(results)[::-1]
    names = [name for name, _ in ordered]
    last = [100 * line["accuracy"][_last(line)] for _, line in ordered]
    error = [100 * line["ci95"][_last(line)] for _, line in ordered]
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.barh(names, last, xerr=error, color="C0", ecolor="black")
    axis.set_xlabel("accuracy on held-out classes, % (with 95 % interval)")
    axis.set_xlim(0, 100)
    for position, value in enumerate(last):
        axis.text(value / 2, position, f"{value:.1f}", color="white")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _by_accuracy(results):
    return sorted(
        results.items(),
        key=lambda item: -item[1]["accuracy"][_last(item[1])],
    )


def _last(line):
    """The largest number of inner steps, as the results name it."""
    return max(line["accuracy"], key=int)
