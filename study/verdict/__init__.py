"""The final merge of a study, and whether it is better than the models it was made from."""
