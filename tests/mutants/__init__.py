"""Faults that a person could make, and the test that must notice each."""

from tests.mutants import data
from tests.mutants import engine
from tests.mutants import model
from tests.mutants import operations
from tests.mutants import policies
from tests.mutants import reports
from tests.mutants import rules
from tests.mutants import steps
from tests.mutants import verdicts

MUTANTS = (
    engine.MUTANTS
    + steps.MUTANTS
    + rules.MUTANTS
    + operations.MUTANTS
    + model.MUTANTS
    + data.MUTANTS
    + policies.MUTANTS
    + reports.MUTANTS
    + verdicts.MUTANTS
)
