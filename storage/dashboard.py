"""Store a study's note and figures as the attributes that optuna-dashboard displays."""

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna_dashboard import save_note, save_plotly_graph_object
from sqlalchemy import delete, insert

from storage.database.connections import writing
from storage.database.database import Database
from storage.database.optuna_internals import (
    StudyModel,
    StudySystemAttributeModel,
    study_id,
    with_storage,
)


class _AttributeRecorder:
    """Collects the attributes that optuna-dashboard sets.

    optuna-dashboard splits a text into attributes of 2,000 characters. Through Optuna's storage it
    would write each of them in a transaction of its own.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = dict(attributes)
        self.changed: dict[str, Any] = {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._attributes

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._attributes[key] = self.changed[key] = value


def post(database: Database, study: optuna.Study, note: str, figures: Mapping[str, Any]) -> None:
    """Replace the study's note (Markdown) and its figures in one transaction.

    `figures` maps the id of each figure to a plotly figure.
    """
    number = study_id(study)
    recorder = _AttributeRecorder(database.get_study_system_attrs(number))
    recorded = with_storage(study, recorder)
    save_note(recorded, note)
    for name, figure in figures.items():
        save_plotly_graph_object(recorded, figure, graph_object_id=name)
    model = StudySystemAttributeModel
    rows = [
        {"study_id": number, "key": key, "value_json": json.dumps(value)}
        for key, value in recorder.changed.items()
    ]
    with writing(database.engine) as session:
        StudyModel.find_or_raise_by_id(number, session, for_update=True)
        keys = model.key.in_(recorder.changed)
        session.execute(delete(model).where(model.study_id == number, keys))
        session.execute(insert(model), rows)
