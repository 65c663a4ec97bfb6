"""What survives a crash: studies, trials and answers, in SQLite or Postgres."""
