"""Exports a whole registry in one job: many versions, parallel workers, one report.

select      which registered versions are meant, and which of them are published already
schedule    hands versions to workers; what hangs, eats memory or dies costs only itself
local, ray_engine    the workers: processes of this machine, or Ray's
worker      what runs inside one: `thresher_export.export_version`, its output in a log
report      what came of each version, as JSON, Markdown and counts
"""

from thresher_export.jobs.job import JobOptions, run_job
from thresher_export.jobs.report import JobReport, Outcome
from thresher_export.jobs.select import is_published, select_versions

__all__ = [
    "JobOptions",
    "JobReport",
    "Outcome",
    "is_published",
    "run_job",
    "select_versions",
]
