"""The tasks and groups that a study requests, and the members of groups."""

from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.group import Group

from objectives.errors import TaskError
from objectives.tasks.scorer_calls import Scoring


@dataclass(frozen=True)
class TaskRequest:
    """A task or group in a study's config."""

    name: str
    weight: float
    metric: str
    """A metric, or a metric and a filter separated by a comma; for example "acc,none"."""
    scoring: Scoring = field(default_factory=Scoring)

    @property
    def metric_name(self) -> str:
        """The metric without the filter."""
        return self.metric.partition(",")[0]

    @property
    def filter_name(self) -> str:
        """The filter; `none` by default."""
        return self.metric.partition(",")[2] or "none"


def has_task(manager: Any, name: str, above: tuple[str, ...] = ()) -> bool:
    """Return whether an lm-eval task manager has a task, or a group and all its members.

    `above` contains the names of the groups around `name`, outermost first. Raises TaskError if a
    group contains itself.
    """
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    if name in above:
        raise TaskError(f"{above[0]}: the group {name} contains itself")
    members = entry.cfg.get("task") if entry.cfg and "group" in entry.cfg else None
    for member in members if isinstance(members, list) else [members]:
        child = member.get("task") if isinstance(member, dict) else member
        if isinstance(child, str) and not has_task(manager, child, (*above, name)):
            return False
    return True


def scored_tasks(request: TaskRequest, entry: Any) -> tuple[list[Any], bool]:
    """Return the tasks that the requested score averages, and whether it weights them by size.

    `entry` is the task or the group. Raises TaskError if a group does not have the score.
    """
    if not isinstance(entry, Group):
        return [entry], True
    for rule in entry.aggregate_metric_list or []:
        has_filter = rule.filter_list is None or request.filter_name in rule.filter_list
        if rule.metric == request.metric_name and has_filter:
            return entry.get_all_tasks(), rule.weight_by_size
    rules = [
        f"{rule.metric},{f}"
        for rule in entry.aggregate_metric_list or []
        for f in rule.filter_list or ["(any filter)"]
    ]
    raise TaskError(
        f"{request.name}: the group has no score {request.metric_name},{request.filter_name}; its "
        f"aggregate_metric_list has {', '.join(rules) or 'none'}"
    )
