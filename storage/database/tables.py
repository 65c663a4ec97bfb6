"""This project's tables, which stand beside Optuna's, and the database's clock."""

from typing import Any

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData()

# The columns of Optuna's tables that our foreign keys refer to.
studies = Table("studies", metadata, Column("study_id", Integer, primary_key=True))
trials = Table("trials", metadata, Column("trial_id", Integer, primary_key=True))

trial_scores = Table(
    "trial_answers",  # the names in the database stay, so that stored studies can be resumed
    metadata,
    Column("trial_id", ForeignKey("trials.trial_id", ondelete="CASCADE"), primary_key=True),
    Column("task", String(255), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("weight", Float(53), nullable=False),
    Column("questions", Integer, nullable=False),
    Column("scores", LargeBinary, nullable=False),
    Column("soft", LargeBinary, nullable=False),
    Column("broken", Integer, nullable=False),
)

trial_answers = Table(
    "trial_replies",
    metadata,
    Column("trial_id", ForeignKey("trials.trial_id", ondelete="CASCADE"), primary_key=True),
    Column("task", String(255), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("engine", String(255), nullable=False),
    Column("tokens", LargeBinary, nullable=False),
    Column("logprobs", LargeBinary),
)

trial_gradients = Table(
    "trial_gradients",
    metadata,
    Column("trial_id", ForeignKey("trials.trial_id", ondelete="CASCADE"), primary_key=True),
    Column("study_id", ForeignKey("studies.study_id", ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("gradient", LargeBinary, nullable=False),
)

workers = Table(
    "study_workers",
    metadata,
    Column("worker_id", String(32), primary_key=True),
    Column("study_id", ForeignKey("studies.study_id", ondelete="CASCADE"), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process", String(255), nullable=False),
    Column("device", String(64), nullable=False),
    Column("doing", String(255), nullable=False),
    Column("started", Float(53), nullable=False),
    Column("beat", Float(53), nullable=False),
    Column("ended", Float(53)),
    Column("end", String(255)),
)

claims = Table(
    "study_claims",
    metadata,
    Column("study_id", ForeignKey("studies.study_id", ondelete="CASCADE"), primary_key=True),
    Column("what", String(255), primary_key=True),
    Column("worker_id", String(32), nullable=False, index=True),
    Column("trial_id", ForeignKey("trials.trial_id", ondelete="CASCADE")),
    Column("since", Float(53), nullable=False),
)

REQUIRED_TABLES = (trial_scores, workers, claims)
OUR_TABLES = (*REQUIRED_TABLES, trial_answers, trial_gradients)
"""Databases of older versions lack some of these: they can be read without, and the missing tables
are created when such a database is opened for writing."""

OPTUNA_TABLES = {
    *("studies", "study_directions", "study_user_attributes", "study_system_attributes"),
    *("trials", "trial_user_attributes", "trial_system_attributes", "trial_params"),
    *("trial_values", "trial_intermediate_values", "trial_heartbeats"),
    *("version_info", "alembic_version"),
}
"""The names of Optuna's tables."""


class database_now(FunctionElement[float]):  # noqa: N801  # reads as the SQL function it is
    """The current time of the database's clock, not of the transaction's start: s since 1970."""

    type = Float(53)
    inherit_cache = True


@compiles(database_now, "postgresql")
def _on_postgres(*_: Any, **__: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(database_now, "sqlite")
def _on_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
