"""Create the monitors of a worker."""

from study.cli.options import RunOptions
from study.monitors.dashboard_note import DashboardNote
from study.monitors.monitor import Monitor, Monitors
from study.monitors.wandb import WandbMonitor

from .worker import Worker


def create_monitors(worker: Worker, options: RunOptions, *others: Monitor) -> Monitors:
    """Return the monitors for the dashboard, for Weights & Biases if requested, and `others`."""
    setup, trials = worker.setup, worker.trials
    note = DashboardNote(setup, trials.database, trials.study, worker.population)
    if options.wandb is None:
        return Monitors(note, *others)
    replay = worker.sampler.replay
    wandb = WandbMonitor(setup, trials, worker.claims, replay, options.wandb)
    return Monitors(note, wandb, *others)
