"""The search: what a study is, how it proposes merges, and the commands that run it."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m study...` is looking for its module: nothing is running yet
    import _signal  # type: ignore[import-not-found]  # signal imports more; Ctrl-C would show

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from study.cli.boundary import install_handlers

    install_handlers()
