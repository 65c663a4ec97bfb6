"""Studies: their configs, the search, its monitors and reports, and the commands."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m study...` imports this package before its module
    import _signal  # type: ignore[import-not-found]  # signal imports more modules, during which Ctrl-C would print a traceback

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from study.cli.boundary import install_handlers

    install_handlers()
