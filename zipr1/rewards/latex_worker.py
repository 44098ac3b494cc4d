"""A process that turns LaTeX into numbers: a JSON string per line in, a JSON number or null out.

latex.py starts it by its path. The kernel ends the process when a text takes more than CPU_SECONDS,
also inside a C library, which no Python code could interrupt.
"""

import json
import logging
import math
import resource
import signal
import sys

import sympy
from math_verify import LatexExtractionConfig, parse

CPU_SECONDS = 2  # of processor time for one text, so that the load of the machine changes no result
MEMORY = 4 << 30  # bytes of address space
# What is quick to evaluate: no factorials, binomials, sums, products or integrals.
QUICK = (
    *(sympy.Number, sympy.NumberSymbol, sympy.Add, sympy.Mul, sympy.Pow),
    *(sympy.Abs, sympy.log, sympy.UnevaluatedExpr),
)
MOST = 100  # largest exponent


def number(latex: str) -> float | None:
    """The value of a LaTeX expression; None for anything but one finite real number.

    Matrices, intervals, sets, tuples, equations, inequalities and texts are none.
    """
    configuration = [LatexExtractionConfig(boxed_match_priority=-1)]
    found = parse(f"${latex}$", configuration, "no_fallback", parsing_timeout=None)
    if not found or not isinstance(found[0], sympy.Expr) or not found[0].is_number:
        return None
    if not all(isinstance(part, QUICK) for part in sympy.preorder_traversal(found[0])):
        return None
    for power in found[0].atoms(sympy.Pow):
        if power.base.has(sympy.Pow) or not power.exp.is_Number or abs(power.exp) > MOST:
            return None
    value = found[0].doit()
    return float(value) if value.is_real and math.isfinite(float(value)) else None


def limit() -> None:
    """Allows CPU_SECONDS more of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the parent closes stdin
    logging.disable()  # math-verify logs each text that it cannot parse
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    print("ready", flush=True)
    for line in sys.stdin:
        limit()
        try:
            value = number(json.loads(line))
        except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError):
            value = None  # sympy refuses the expression
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
