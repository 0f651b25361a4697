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
    """Returns the last line of each row and seed: by row, a list of lines."""
    runs = {(line["row"], line["seed"]): line for line in lines}
    rows = {name: [] for name in ROWS}
    for (name, _), line in runs.items():
        rows[name].append(line)
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


def table_line(name, lines):
    """Returns a line of the table: of each number, the worst seed's."""
    row, lines = ROWS[name], scored(lines)
    # The seeds share what the other columns say, but for the time.
    line = max(lines, key=lambda line: line["processor_minutes"])
    ours = [worst(row, lines, step) for step in row.paper]
    ours = " / ".join(f"**{text}**" for text in ours)
    if "test" not in line:
        ours += " on validation tasks"
    iterations = f"{line['iterations']:,}"
    if line["iterations"] < line["of"]:
        iterations = f"stopped at {iterations} of {line['of']:,}"
    paper_iterations = "–"
    if line["paper_iterations"] is not None:
        paper_iterations = f"{line['paper_iterations']:,}"
    steps = ", ".join(map(str, row.paper))
    steps += " step" if steps == "1" else " steps"
    paper = " / ".join(text or "–" for text in row.paper.values())
    run = [f"`{name}`", *line["commits"], line["date"]]
    # Older lines do not know their machine.
    run += line.get("machines", [])
    return (
        f"| {row.title}, after {steps} | {paper} | {ours} | "
        f"{iterations}, {paper_iterations} | "
        f"{line['minutes']:.0f}, {line['processor_minutes']:.0f} | "
        f"{len(lines)} | {', '.join(run)} |"
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
