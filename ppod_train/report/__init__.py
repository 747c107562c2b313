"""The HTML report on runs and evaluations."""

from ppod_train.report.page import write_report

__all__ = ["write_report"]
