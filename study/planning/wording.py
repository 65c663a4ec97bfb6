"""The text of an estimate."""

from study.cli.text import duration
from study.verdict.comparison import POWER

from .data import Estimate, TimeEstimate


def estimate_text(estimate: Estimate) -> str:
    """Return an estimate as text of several lines."""
    gpu = estimate.gpu
    lines = [_search_line(estimate), *_verdict_lines(estimate)]
    time = estimate.time
    if time is not None:
        lines.append(
            f"expected time on {estimate.gpus} x {gpu}: {duration(time.seconds)}, "
            f"{time.seconds_a_trial:.2f} s for each trial"
        )
    lines += [f"memory on {gpu}:", estimate.memory]
    if time is not None:
        lines += [*_token_lines(time), f"time (sources: {time.sources}):", *_time_lines(time)]
    lines += [f"warning: {text}" for text in estimate.warnings]
    return "\n".join(lines)


def _search_line(estimate: Estimate) -> str:
    search, time = estimate.search, estimate.time
    size = f"study {search.study}: {search.parameters} parameters"
    baselines = f"and {search.baselines} baselines"
    if time is None or time.questions is None:
        return (
            f"{size}, population {search.population}, {search.trials} trials = "
            f"{search.generations} generations, {baselines}"
        )
    return (
        f"{size}, {search.trials} steps by gradient, at most {time.questions:,} questions (a "
        f"gradient counts as three), {baselines}"
    )


def _verdict_lines(estimate: Estimate) -> list[str]:
    search = estimate.search
    if search.detectable_lead is None:
        return []
    return [
        f"held-out questions: {search.held_out_questions:,}, which detect a lead of "
        f"{100 * search.detectable_lead:.1f} points over a parent with a probability of "
        f"{POWER:.0%} (assumed: a third of the answers differ)"
    ]


def _token_lines(time: TimeEstimate) -> list[str]:
    return [
        "tokens of a search trial:",
        *(
            f"  {name}: {t.questions} questions, {t.shared} tokens shared, {t.own} own, "
            f"up to {t.decoded} decoded"
            for name, t in time.tokens.items()
        ),
    ]


def _time_lines(time: TimeEstimate) -> list[str]:
    return [
        *(f"  {line}" for line in time.arithmetic),
        f"  after the search: {time.search_merges} merges on all search questions, "
        f"{time.held_out_merges} on all held-out questions = {time.seconds_in_the_end:.0f} s",
    ]
