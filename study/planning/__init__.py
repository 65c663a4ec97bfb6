"""What a study will cost, estimated before it runs."""
