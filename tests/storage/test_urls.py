"""Database URLs: each yields a value or a StorageError, and no secret is ever shown."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from storage.database.database import open_storage
from storage.database.reasons import unusable
from storage.database.url import redacted, storage_url, without_secrets
from storage.errors import StorageError

HIDDEN = "Hidden77"


def opened(url: str, folder: str = "/base") -> str:
    """Return the URL that would be opened, or the error's text."""
    try:
        return storage_url(url, "s", Path(folder))
    except StorageError as error:
        return str(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:Hidden77@h:5/d", "postgresql://u:***@h:5/d"),
        (
            "postgresql://u:Hid%40den77@h/d?sslmode=require",
            "postgresql://u:***@h/d?sslmode=require",
        ),
        ("postgresql://u:x@Hidden77@h/d", "postgresql://..."),
        ("postgresql://u:x/Hidden77@h/d", "postgresql://..."),
        ("postgresql://u:5432/Hidden77@h/d", "postgresql://..."),
        ("postgresql://u:x#Hidden77@h/d", "postgresql://..."),
        ("postgresql://u:x?Hidden77@h/d", "postgresql://..."),
        ("postgresql://h:1/d?password=x@Hidden77", "postgresql://..."),
        ("postgresql://u@h/d?password=Hidden77", "postgresql://h/..."),
        ("postgresql://u@h/d?pass%77ord=Hidden77", "postgresql://h/..."),
        ("postgresql://u@h/d?sslpassword=Hidden77&sslmode=allow", "postgresql://h/..."),
        ("postgresql://u@h/d?options=-cx.key%3DHidden77", "postgresql://h/..."),
        ("postgresql:///?service=Hidden77", "postgresql:///..."),
        ("mysql+pymysql://u:Hidden77@h/d", "mysql+pymysql://u:***@h/d"),
        ("sqlite:///x.db?key=Hidden77", "sqlite:///x.db?..."),
        ("sqlite+pysqlcipher://:Hidden77@/x.db", "sqlite+pysqlcipher://:***@/x.db"),
        ("u:Hidden77@h/d", "(a URL without a scheme)"),
        ("host=h password=Hidden77", "(a URL without a scheme)"),
        ("postgresql://h/d;user=u;password=Hidden77", "postgresql://..."),
        ("postgresql://u:x@h/d&password=Hidden77", "postgresql://..."),
        ("postgresql://u%3AHidden77@h/d", "postgresql://..."),
        ("jdbc:postgresql://u:Hidden77@h/d", "(a URL without a scheme)"),
        ("sqlite:////a/\x1b[31m.db", "sqlite:////a/\\x1b[31m.db"),
    ],
)
def test_only_the_unambiguous_public_part_of_a_url_is_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown
    text = opened(url)
    if text.startswith("postgresql+psycopg2://"):
        assert redacted(text) == shown.replace("postgresql", "postgresql+psycopg2")
    else:
        assert HIDDEN not in text
        assert "Hid" not in text


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://h/d", "only sqlite and postgresql"),
        ("oracle+cx_oracle://h/d", "only sqlite and postgresql"),
        ("nothing://", "only sqlite and postgresql"),
        ("postgresql+asyncpg://h/d", "driver asyncpg is not supported; write postgresql://"),
        ("postgresql+pg8000://h/d", "driver pg8000 is not supported"),
        ("sqlite+aiosqlite:///x.db", "driver aiosqlite is not supported"),
        ("study.db", "has no scheme; write sqlite:///FILE"),
        ("", "has no scheme"),
        ("sqlite://", "write sqlite:///FILE"),
        ("sqlite://study.db", "write sqlite:///FILE"),
        ("sqlite:///", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///file:x.db?uri=true", "write sqlite:///FILE"),
        ("sqlite:///file:x.db", "write sqlite:///FILE"),
        ("sqlite:///x.db?mode=ro", "only option of a SQLite URL is timeout"),
        ("sqlite:///x.db?timeout=soon", "only option of a SQLite URL is timeout"),
        ("sqlite:///~nobody-at-all/x.db", "no home folder for ~nobody-at-all"),
        ("sqlite:///x\n.db", "control characters"),
        ("sqlite:///x\udcff.db", "not UTF-8"),
        ("sqlite:///x%00.db", "control characters"),
        ("postgresql://h:port/d", "percent-encode"),
        ("postgresql://u:p@q@h/d", "percent-encode"),
        ("postgresql://%2Frun/d", "percent-encode"),
    ],
)
def test_a_url_that_cannot_be_opened_is_refused_with_the_remedy(url: str, reason: str) -> None:
    with pytest.raises(StorageError, match=re.escape(reason)):
        storage_url(url, "s", Path())


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("sqlite:///~/x.db", f"{Path.home()}/x.db"),
        ("sqlite:///~x.db", "/base/~x.db"),
        ("sqlite:///a b/{c}.db", "/base/a b/{c}.db"),
        ("sqlite+pysqlite:///x.db", "/base/x.db"),
        (" sqlite:///x.db\n", "/base/x.db"),
        ("SQLite:////x/y@z:1.db", "/x/y@z:1.db"),
        ("postgresql://u:{p}@h/{d}", "{d}"),
        ("postgres+psycopg2://h1,h2/d", "d"),
    ],
)
def test_unusual_urls_work(url: str, database: str) -> None:
    assert make_url(storage_url(url, "s", Path("/base"))).database == database


def test_the_default_file_may_be_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a?b#c%41 d{e}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    open_storage(storage_url(None, "s", Path()))
    assert (folder / "runs" / "s" / "study.db").exists()


def test_secrets_in_a_drivers_message_are_masked() -> None:
    ambiguous = "postgresql+psycopg2://u:x/Hidden77@Hidden88/d"
    message = (
        'could not translate host name "Hidden88" to address: Name or service not known Hidden77'
    )
    assert without_secrets(message, ambiguous) == (
        'could not translate host name "***" to address: Name or service not known ***'
    )
    option = "postgresql+psycopg2://h/d?sslcert=Hidden77"
    assert without_secrets('invalid value: "Hidden77"', option) == 'invalid value: "***"'
    same = "postgresql+psycopg2://postgres:postgres@h/d"
    assert without_secrets('no user "postgres"', same) == 'no user "postgres"'
    assert "percent-encode" in unusable(ambiguous, OSError("x"))


fuzzed = settings(max_examples=150, deadline=None, derandomize=True, database=None)
delimiters = st.text("@:/?#&=%[]{} +;,'\"\\", max_size=3)
prefix = st.sampled_from(
    ["postgresql://", "postgres://", "postgresql+psycopg2://", "mysql://", "sqlite://", "", "a:b:"]
)
before, after = (
    st.sampled_from(["", "u", "u:", "user:", "h:1/d?password="]),
    st.sampled_from(
        [
            "",
            "@h/d",
            "@h:1/d",
            "@",
            "@h/d?sslmode=require",
            "@h/d?application_name=x",
            "/d",
            "@[::1]/d",
        ]
    ),
)


@given(prefix, before, delimiters, delimiters, after)
@fuzzed
def test_no_password_is_shown_whatever_surrounds_it(
    scheme: str, start: str, left: str, right: str, end: str
) -> None:
    """The password is the text between the first colon and the last @, in any spelling."""
    if not start.endswith((":", "=")) or "@" not in end:
        return
    url = f"{scheme}{start}{left}{HIDDEN}{right}{end}"
    text = opened(url)
    assert HIDDEN not in redacted(url)
    if text.startswith(("sqlite", "postgresql+psycopg2://")):
        assert HIDDEN not in redacted(text)
        message = f'FATAL: no host "{left}{HIDDEN}{right}" or {HIDDEN}, see {quote(HIDDEN)}'
        if not text.startswith("sqlite"):
            assert HIDDEN not in unusable(text, OSError(message))
    else:
        assert HIDDEN not in text


@given(st.one_of(st.text(), st.builds("{}{}".format, prefix, st.text())))
@fuzzed
def test_any_text_yields_a_url_or_a_storage_error(text: str) -> None:
    shown = redacted(text)
    assert "\x1b" not in shown
    url = opened(text)
    if url.startswith(("sqlite:////", "postgresql+psycopg2://")):
        make_url(url)
        assert redacted(url)
    else:
        assert url.startswith("storage")
        assert "\n" not in url
