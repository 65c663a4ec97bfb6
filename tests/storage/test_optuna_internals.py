"""What storage/database/optuna_internals.py relies on in Optuna, stated for the tested versions."""

import importlib.metadata
from pathlib import Path

import optuna
import pytest
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.orm import Session

from storage.database import optuna_internals
from storage.database.database import open_storage
from storage.database.tables import OPTUNA_TABLES
from storage.studies import create_study

TESTED = ("5.0",)


def test_the_installed_optuna_is_a_tested_version_and_the_docstring_names_it() -> None:
    version = importlib.metadata.version("optuna")
    assert version.rpartition(".")[0] in TESTED
    assert f"Versions tested: {', '.join(TESTED)}," in str(optuna_internals.__doc__)


def test_no_other_module_refers_to_private_names_of_optuna() -> None:
    root = Path(optuna_internals.__file__).parents[1]
    users = [
        path.name
        for path in root.rglob("*.py")
        if any(
            name in path.read_text() for name in ("_rdb", "._study_id", "._trial_id", "._storage")
        )
        and path.name != "optuna_internals.py"
    ]
    own = [
        "claims.py",
        "gradients.py",
        "rights.py",
        "workers.py",
    ]  # their own _study_id, and alembic's folder
    assert sorted(users) == own


def test_optunas_tables_are_the_listed_ones() -> None:
    assert set(models.BaseModel.metadata.tables) | {"alembic_version"} == OPTUNA_TABLES


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (models.StudyModel, {"study_id", "study_name"}),
        (models.TrialModel, {"trial_id", "number", "study_id", "state"}),
        (models.TrialModel, {"datetime_start", "datetime_complete"}),
        (models.TrialParamModel, {"param_id", "trial_id", "param_name", "param_value"}),
        (models.TrialParamModel, {"distribution_json"}),
        (models.TrialValueModel, {"trial_id", "objective", "value", "value_type"}),
        (models.TrialUserAttributeModel, {"trial_id", "key", "value_json"}),
        (models.StudySystemAttributeModel, {"study_id", "key", "value_json"}),
    ],
)
def test_optunas_tables_have_the_columns_that_are_used(
    model: type[models.BaseModel], columns: set[str]
) -> None:
    assert columns <= set(model.__table__.columns.keys())


def test_the_overridden_methods_exist() -> None:
    for name in (
        "_get_prepared_new_trial",
        "_get_trials",
        "_build_frozen_trial_from_trial_model",
        "_fill_storage_url_template",
    ):
        assert callable(getattr(RDBStorage, name))
        assert name in vars(optuna_internals.BulkStorage)


def test_the_ids_are_the_primary_keys(database: str) -> None:
    storage = open_storage(database)
    study = create_study(storage, "s")
    assert storage.get_study_name_from_id(optuna_internals.study_id(study)) == "s"
    assert not optuna_internals.has_first_trial(study)
    study.add_trial(create_trial(value=1.0))
    assert optuna_internals.has_first_trial(study)
    [trial] = study.get_trials()
    assert storage.get_trial(optuna_internals.frozen_trial_id(trial)) == trial


def test_a_copied_study_uses_the_other_storage(database: str) -> None:
    class Recorder:
        def get_study_user_attrs(self, study_id: int) -> dict[str, int]:
            return {"study": study_id}

    study = create_study(open_storage(database), "s")
    copied = optuna_internals.with_storage(study, Recorder())
    assert copied.user_attrs == {"study": optuna_internals.study_id(study)}
    assert study.user_attrs == {}


def test_an_inserted_trial_equals_one_that_optuna_creates(database: str) -> None:
    storage = open_storage(database)
    number = optuna_internals.study_id(create_study(storage, "s"))
    template = create_trial(
        state=TrialState.RUNNING,
        params={"a": 0.25, "b": -1.0},
        distributions={
            "a": optuna.distributions.FloatDistribution(0.0, 1.0),
            "b": optuna.distributions.FloatDistribution(-2.0, 2.0),
        },
        user_attrs={"slot": 3},
    )
    with Session(storage.engine) as session, session.begin():
        inserted = storage.insert_trial(session, number, template)
    created = RDBStorage.create_new_trial(RDBStorage(database), number, template)

    def contents(trial: FrozenTrial) -> tuple[object, ...]:
        return trial.state, trial.params, trial.distributions, trial.user_attrs

    assert contents(storage.get_trial(inserted)) == contents(storage.get_trial(created))


def test_trials_are_read_as_optuna_reads_them(database: str) -> None:
    storage = open_storage(database)
    study = create_study(storage, "s")
    number = optuna_internals.study_id(study)
    create_study(storage, "other").add_trial(create_trial(value=9.0))
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "a": optuna.distributions.FloatDistribution(0.0, 1.0),
        "b": optuna.distributions.IntDistribution(1, 9),
        "c": optuna.distributions.CategoricalDistribution(("x", None)),
    }
    params = {"c": None, "b": 3, "a": 0.25}
    for state, value in (
        *((TrialState.COMPLETE, 1.5), (TrialState.RUNNING, None), (TrialState.FAIL, None)),
        *((TrialState.COMPLETE, float("inf")), (TrialState.WAITING, None)),
    ):
        study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions=distributions,
                user_attrs={"slot": 3, "tasks": {"t": 0.5}},
                system_attrs={"x": [1]},
                intermediate_values={0: 0.5, 2: float("nan")} if value == 1.5 else {},
            )
        )
    study.add_trial(create_trial(value=2.0))  # without parameters
    ids = [optuna_internals.frozen_trial_id(trial) for trial in study.get_trials()]
    for states in (None, (TrialState.COMPLETE,), (TrialState.RUNNING, TrialState.WAITING), ()):
        for included, after in ((set(), -1), ({ids[0], ids[2]}, ids[3]), (set(), ids[-1])):
            ours = storage._get_trials(number, states, set(included), after)
            optunas = RDBStorage._get_trials(storage, number, states, set(included), after)
            assert [repr(trial) for trial in ours] == [repr(trial) for trial in optunas]
            assert [list(trial.params) for trial in ours] == [list(t.params) for t in optunas]
    with pytest.raises(KeyError):
        storage._get_trials(number + 10, None, set(), -1)


def test_the_schema_version_is_found_beside_optunas_package(database: str) -> None:
    folder = Path(optuna.__file__).parent / "storages" / "_rdb" / "alembic"
    storage = open_storage(database)
    assert ScriptDirectory(str(folder)).get_current_head() == storage.get_current_version()
