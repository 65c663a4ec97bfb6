"""The text of an estimate."""

from study.cli.text import duration

from .estimate import Estimate, TimeEstimate


def estimate_text(estimate: Estimate) -> str:
    """Return an estimate as text of several lines."""
    search, gpu = estimate.search, estimate.hardware.gpu
    lines = [
        f"study {search.study}: {search.parameters} parameters, population {search.population}, "
        f"{search.trials} trials = {search.generations} generations, and {search.baselines} "
        "baselines",
        f"memory on {gpu}:",
        estimate.memory,
    ]
    if estimate.time is not None:
        lines += _token_lines(estimate.time)
        lines.append(
            f"expected time on {estimate.gpus} x {gpu} (sources: {estimate.time.sources}):"
        )
        lines += _time_lines(estimate.time)
    lines += [f"warning: {text}" for text in estimate.warnings]
    return "\n".join(lines)


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
