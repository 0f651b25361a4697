"""Makes the table of docs/results.md from the lines of docs/results.jsonl.

python -m benchmarks.ledger_table
"""

import argparse
import json
import pathlib
import sys

from benchmarks import report
from benchmarks.ledger_rows import ROWS

DOCS = pathlib.Path(__file__).absolute().parent.parent / "docs"
HEAD = (
    "| row | paper | ours | iterations, the paper's | minutes, of a processor "
    "| seeds | run |\n|---|---|---|---|---|---|---|"
)


def latest(lines):
    """Returns the last line of each row and seed: by row, a list of lines.

    Lines of other flags than the row's are left out. Older lines do not know
    their flags.
    """
    runs = {}
    for line in lines:
        flags = " ".join(ROWS[line["row"]].flags.split())
        if line.get("flags", flags) == flags:
            runs[line["row"], line["seed"]] = line
    rows = {name: [] for name in ROWS}
    for name, seed in sorted(runs):
        rows[name].append(runs[name, seed])
    return {name: lines for name, lines in rows.items() if lines}


def scored(lines):
    """Returns the lines with test scores, or all if there are none."""
    return [line for line in lines if "test" in line] or lines


def scores(line):
    return line.get("test", line["validation"])


def worst(row, lines, step):
    """Returns mean and interval of the worst seed, as a text."""
    pairs = [scores(line)[str(step)] for line in lines]
    if any(mean is None for mean, _ in pairs):
        return "not finite"
    mean, ci95 = max(pairs) if row.kind == "error" else min(pairs)
    return {
        "accuracy": f"{100 * mean:.2f} ± {100 * ci95:.2f}",
        "error": f"{mean:.3f} ± {ci95:.3f}",
        "return": f"{mean:.1f} ± {ci95:.1f}".replace("-", "−"),
    }[row.kind]


def united(lines, key):
    """Returns what the lines have, once each."""
    # Older lines do not know their machine.
    return list(dict.fromkeys(x for line in lines for x in line.get(key, [])))


def extent(numbers):
    """Returns the smallest and the largest number, as a text."""
    ends = dict.fromkeys(f"{end:,.0f}" for end in (min(numbers), max(numbers)))
    return " to ".join(ends)


def table_line(name, lines):
    """Returns a line of the table: of each number, the worst seed's."""
    row, lines = ROWS[name], scored(lines)
    # The seeds share what a line says of its row.
    line = lines[-1]
    ours = " / ".join(worst(row, lines, step) for step in row.paper)
    if "test" not in line:
        ours += " on validation tasks"
    iterations = extent([line["iterations"] for line in lines])
    if line["iterations"] < line["of"]:
        iterations = f"stopped at {iterations} of {line['of']:,}"
    paper_iterations = "–"
    if line["paper_iterations"] is not None:
        paper_iterations = f"{line['paper_iterations']:,}"
    steps = ", ".join(map(str, row.paper))
    steps += " step" if steps == "1" else " steps"
    paper = " / ".join(text or "–" for text in row.paper.values())
    seeds = ", ".join(str(line["seed"]) for line in lines)
    minutes, processor_minutes = (
        max(line[key] for line in lines)
        for key in ("minutes", "processor_minutes")
    )
    dates = dict.fromkeys(line["date"] for line in lines)
    run = [f"`{name}`", *united(lines, "commits"), *dates]
    run += united(lines, "machines")
    return (
        f"| {row.title}, after {steps} | {paper} | {ours} | "
        f"{iterations}, {paper_iterations} | "
        f"{minutes:.0f}, {processor_minutes:.0f} | "
        f"{seeds} | {', '.join(run)} |"
    )


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_table")
    parser.add_argument("--docs", type=pathlib.Path, default=DOCS)
    docs = parser.parse_args(argv).docs
    text = (docs / "results.jsonl").read_text("utf-8")
    rows = latest(map(json.loads, text.splitlines()))
    table = [HEAD] + [table_line(name, lines) for name, lines in rows.items()]
    report.replace(docs / "results.md", "ledger", "\n".join(table))


if __name__ == "__main__":
    main(sys.argv[1:])
