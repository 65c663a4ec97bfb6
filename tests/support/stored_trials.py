"""Write studies, trials and scores to a database."""

import numpy as np
from optuna.distributions import FloatDistribution

from storage.claims import Claims
from storage.database.database import open_storage
from storage.scores import StoredScores
from storage.studies import create_study, store_or_check_fingerprint
from storage.trials import Trials


def random_scores(seed: int, count: int = 7) -> StoredScores:
    rng = np.random.default_rng(seed)
    scores = rng.random((2, count), dtype=np.float32)
    return StoredScores(0.875, scores[0], scores[1], seed)


def new(url: str, name: str = "s") -> tuple[Trials, Claims]:
    storage = open_storage(url)
    study = create_study(storage, name)
    store_or_check_fingerprint(study, {"seed": "7"})
    return Trials(storage, study), Claims(storage, study._study_id, "me")


def trial(claims: Claims, key: str = "one") -> int:
    distributions = dict.fromkeys("ab", FloatDistribution(0.0, 1.0))
    return claims.start(key, {"a": 0.1, "b": 0.2}, distributions, {"generation": 0})
