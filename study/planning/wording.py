"""The text of an estimate."""

from study.cli.text import duration
from study.verdict.comparison import POWER

from .data import Estimate, TimeEstimate


def estimate_text(estimate: Estimate) -> str:
    """Return an estimate as text of several lines."""
    gpu = estimate.hardware.gpu
    lines = [_search_line(estimate), *_verdict_lines(estimate)]
    lines += [f"memory on {gpu}:", estimate.memory]
    if estimate.time is not None:
        lines += _token_lines(estimate.time)
        lines.append(
            f"expected time on {estimate.gpus} x {gpu} (sources: {estimate.time.sources}):"
        )
        lines += _time_lines(estimate.time)
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
        f"{search.held_out_questions:,} held-out questions show a lead of "
        f"{100 * search.detectable_lead:.1f} points over a parent in {POWER:.0%} of studies, if "
        "the two answer a third of them differently"
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
        f"  {time.seconds_a_trial:.2f} s per trial, {duration(time.seconds)} in total",
    ]
