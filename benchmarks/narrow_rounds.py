"""Rounds with a large model whose parameters travel in 16 bits: seconds and memory, beside the same in float32.

    python -m benchmarks.narrow_rounds [--quick] [--case 5x200] [--rounds 4]

As :mod:`benchmarks.large_models`, with the checkpoint on: a case ``NxM`` is N clients and a model of M MB in one float32 tensor;
clients return random weights that differ. With five clients FedAvg has a sum in float64. Accuracy and bytes are in
:mod:`benchmarks.transport_dtype`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import Figure, Report, figure
from benchmarks.harness import new_report, parser
from benchmarks.large_models import DRIVER_MB, KINDS, LINK_MB, SERVER_MB, Case, rounds_of
from benchmarks.transport_dtype import FORMS, label


def measure(report: Report, case: Case, rounds: int, where: Path | None) -> None:
    """One case."""
    system = label(case.transport_dtype or None)
    rounds_of(case, rounds, where, checkpoint=True)
    report.add(figure(f"round, {case.name}", system, case.seconds, "s"))
    bounds = {"server": SERVER_MB, "link": LINK_MB, "driver": 2 * case.megabytes + DRIVER_MB}
    for kind in KINDS:
        name = f"anonymous memory of the {kind}, {case.name}"
        report.add(Figure(name=name, system=system, value=case.memory[kind], unit="MB", must=bounds[kind]))


def main() -> None:
    """Measure and report."""
    p = parser(__doc__)
    p.add_argument("--case", help="clients x MB (default: 5x20 when quick, 5x200 otherwise)")
    p.add_argument("--rounds", type=int, default=4, help="of each form (default: %(default)s)")
    p.add_argument("--where", type=Path, help="where the models go (default: the system's folder for temporary files)")
    options = p.parse_args()
    report = new_report("narrow_rounds", "Rounds with parameters in 16 bits", options)
    clients, megabytes = map(int, (options.case or ("5x20" if options.quick else "5x200")).split("x"))
    for form in FORMS:
        measure(report, Case(clients, megabytes, form or ""), options.rounds, options.where)
    report.write()


if __name__ == "__main__":
    main()
