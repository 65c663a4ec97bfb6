"""Score the contenders of the verdict on the held-out questions."""

import logging
from collections.abc import Sequence

from objectives.engines.engine import Engine
from objectives.errors import EngineError, ScorerError
from objectives.scoring import QuestionSet
from storage.claims import Claims, ClaimTaken
from storage.heartbeat import Heartbeat
from storage.scores import HELD_OUT, ScoreStore
from storage.trials import TrialRecord, Trials
from study.cli.interrupts import Interrupts
from study.search.contenders import contenders
from study.search.genome import Genome, recipe_of
from study.search.jobs import held_out_key
from study.search.stored_scores import answers_of

from .evaluator import Failures

log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0


class HeldOutScorer:
    """Scores trials on the held-out questions, each trial by one of the workers."""

    def __init__(
        self,
        questions: QuestionSet,
        genome: Genome,
        trials: Trials,
        answers: ScoreStore,
        claims: Claims,
        engine: Engine,
        engine_signature: str,
        interrupts: Interrupts,
        heartbeat: Heartbeat,
        failures: Failures,
    ) -> None:
        """`engine_signature` is stored with the answers. `failures` is shared with the search."""
        self._questions, self._genome = questions, genome
        self._trials, self._answers, self._claims = trials, answers, claims
        self._engine, self._engine_signature = engine, engine_signature
        self._interrupts, self._heartbeat, self._failures = interrupts, heartbeat, failures
        self._scored: set[int] = set()
        """Ids of trials whose held-out answers are stored."""

    def score_all(self) -> None:
        """Score all contenders, and wait for those that other workers are scoring.

        Raises EngineError or ScorerError after three failures in a row.
        """
        if not self._questions.tasks:
            return
        with self._interrupts.deferred():
            while missing := self._missing(self._trials.all()):
                if not any(self.score(record) for record in missing):
                    self._heartbeat.doing = "waiting for other workers to score held-out questions"
                    self._trials.database.retry(self._heartbeat.reap_dead)
                    self._interrupts.pause(_WAIT_SECONDS)

    def score(self, record: TrialRecord) -> bool:
        """Score a trial; return False if another worker is scoring it. Signals are deferred."""
        key = held_out_key(record.number)
        try:
            self._claims.acquire(key)
        except ClaimTaken:
            return False
        if self.has_scored(record):  # another worker has scored it meanwhile
            self._claims.release(key)
            return True
        log.info("scoring trial %d on the held-out questions", record.number)
        self._heartbeat.doing = key
        try:
            with self._interrupts.allowed():
                self._engine.load(recipe_of(record, self._genome))
                scores = self._questions.evaluate(self._engine)
        except (EngineError, ScorerError) as error:
            log.warning("scoring the held-out questions failed and will be retried: %s", error)
            self._claims.release(key)
            self._failures.add(error)
            return True
        self._failures.reset()
        self._answers.write(record.id, HELD_OUT, answers_of(scores, self._engine_signature, True))
        self._claims.release(key)
        return True

    def has_scored(self, record: TrialRecord) -> bool:
        """Return whether a trial has answers to the held-out questions."""
        if record.id not in self._scored:
            if not has_held_out(record, self._answers, self._questions):
                return False
            self._scored.add(record.id)
        return True

    def _missing(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        trials = [c.record for c in contenders(records, self._genome)]
        return [record for record in trials if not self.has_scored(record)]


def has_held_out(record: TrialRecord, answers: ScoreStore, questions: QuestionSet) -> bool:
    """Return whether a trial has stored answers to the held-out questions of every task."""
    if not questions.tasks:
        return True
    stored = answers.read(record.id, HELD_OUT)
    return all(task.name in stored for task in questions.tasks)
