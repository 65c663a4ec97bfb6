"""Puts a study's note and figures where optuna-dashboard shows them."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages._rdb import models
from optuna_dashboard import save_note, save_plotly_graph_object
from sqlalchemy import delete, insert

from storage.database.connections import writing
from storage.database.database import Database


class _Collected:
    """Takes the storage's place while optuna-dashboard cuts texts into attributes: it would write
    each piece, of two thousand characters, in a transaction of its own."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = dict(attributes)
        self.changed: dict[str, Any] = {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._attributes

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._attributes[key] = self.changed[key] = value


def post(database: Database, study: optuna.Study, note: str, figures: Mapping[str, Any]) -> None:
    """Replace the study's note and figures (id to plotly figure), in one transaction."""
    study_id = study._study_id
    collected = _Collected(database.get_study_system_attrs(study_id))
    stand_in: Any = copy.copy(study)
    stand_in._storage = collected
    save_note(stand_in, note)
    for name, figure in figures.items():
        save_plotly_graph_object(stand_in, figure, graph_object_id=name)
    model = models.StudySystemAttributeModel
    rows = [
        {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
        for key, value in collected.changed.items()
    ]
    with writing(database.engine) as session:
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        keys = model.key.in_(collected.changed)
        session.execute(delete(model).where(model.study_id == study_id, keys))
        session.execute(insert(model), rows)
